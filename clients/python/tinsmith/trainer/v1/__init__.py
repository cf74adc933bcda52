# Generated from proto/ by `make proto`; do not edit.
from tinsmith.trainer.v1.checkpoint_pb2 import *  # noqa: F403
from tinsmith.trainer.v1.checkpoint_service_pb2 import *  # noqa: F403
from tinsmith.trainer.v1.checkpoint_service_pb2_grpc import *  # noqa: F403
from tinsmith.trainer.v1.loss_pb2 import *  # noqa: F403
from tinsmith.trainer.v1.trainer_service_pb2 import *  # noqa: F403
from tinsmith.trainer.v1.trainer_service_pb2_grpc import *  # noqa: F403
