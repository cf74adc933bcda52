# Generated from proto/ by `make proto`; do not edit.
from tinsmith.renderer.v1.renderer_service_pb2 import *  # noqa: F403
from tinsmith.renderer.v1.renderer_service_pb2_grpc import *  # noqa: F403
