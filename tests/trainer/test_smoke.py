import numpy as np, time
from tinsmith.arrays import ragged, ragged_of, flat_and_offsets
from tinsmith.trainer.v1 import *
from tinsmith.types.v1 import *
async def test_smoke(suite):
    m=(await suite.trainer.CreateModel(CreateModelRequest(base_model="random",lora=LoraConfig(rank=8,alpha=16,seed=1)))).model
    print(m)
    rows=[np.arange(1,9),np.arange(3,30)]
    R=lambda v,d: Column(ragged=ragged(v,d))
    b=DatumBatch(tokens=ragged(rows,np.int32),loss_inputs={"target_tokens":R([r+1 for r in rows],np.int64),"weights":R([np.ones(len(r)) for r in rows],np.float32)})
    for i in range(5):
        a=await suite.trainer.ForwardBackward(ForwardBackwardRequest(model_id=m.model_id,seq_id=2*i+1,loss=LossSpec(cross_entropy=CrossEntropyLoss()),batch=b))
        s=await suite.trainer.OptimStep(OptimStepRequest(model_id=m.model_id,seq_id=2*i+2,adam=AdamParams(learning_rate=1e-2)))
        print(a.metrics,s)
    c=await suite.trainer.SaveState(SaveStateRequest(model_id=m.model_id,seq_id=11)); print(c)
    t=time.perf_counter(); c=await suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=m.model_id,seq_id=12)); print(time.perf_counter()-t); print(c)
