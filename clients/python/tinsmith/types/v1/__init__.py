# Generated from proto/ by `make proto`; do not edit.
from tinsmith.types.v1.data_pb2 import *  # noqa: F403
from tinsmith.types.v1.message_pb2 import *  # noqa: F403
from tinsmith.types.v1.model_pb2 import *  # noqa: F403
from tinsmith.types.v1.options_pb2 import *  # noqa: F403
from tinsmith.types.v1.queue_pb2 import *  # noqa: F403
from tinsmith.types.v1.row_pb2 import *  # noqa: F403
from tinsmith.types.v1.tensor_pb2 import *  # noqa: F403
