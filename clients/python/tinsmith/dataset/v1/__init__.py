# Generated from proto/ by `make proto`; do not edit.
from tinsmith.dataset.v1.dataset_service_pb2 import *  # noqa: F403
from tinsmith.dataset.v1.dataset_service_pb2_grpc import *  # noqa: F403
from tinsmith.dataset.v1.spec_pb2 import *  # noqa: F403
