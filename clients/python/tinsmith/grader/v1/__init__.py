# Generated from proto/ by `make proto`; do not edit.
from tinsmith.grader.v1.grader_service_pb2 import *  # noqa: F403
from tinsmith.grader.v1.grader_service_pb2_grpc import *  # noqa: F403
