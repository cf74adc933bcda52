# Generated from proto/ by `make proto`; do not edit.
from tinsmith.orchestrator.v1.orchestrator_service_pb2 import *  # noqa: F403
from tinsmith.orchestrator.v1.orchestrator_service_pb2_grpc import *  # noqa: F403
from tinsmith.orchestrator.v1.recipe_pb2 import *  # noqa: F403
from tinsmith.orchestrator.v1.run_pb2 import *  # noqa: F403
