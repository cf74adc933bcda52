"""A process that publishes checkpoints until it is killed, and prints a line for each:
`python publisher.py ROOT durable|quick ATTEMPT`."""

import sys
from pathlib import Path

from tinsmith_server.storage import CheckpointDraft, CheckpointStore, CheckpointUri, LoraShape

store = CheckpointStore(Path(sys.argv[1]))
step = 0
while True:
    step += 1
    content = step.to_bytes(8, "little") * 20_000
    for name, overwrite in (("best", True), (f"{step:06d}-{sys.argv[3]}", False)):
        uri = CheckpointUri(model_id="model", kind="training", name=name)
        draft = CheckpointDraft(uri=uri, step=step, base_model="tiny", lora=LoraShape(rank=8, alpha=16.0))
        store.publish(draft, {"a": content, "b": content[::-1]}, durable=sys.argv[2] == "durable", overwrite=overwrite)
        print(uri, flush=True)
