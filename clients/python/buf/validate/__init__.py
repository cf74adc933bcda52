# Generated from proto/ by `make proto`; do not edit.
from buf.validate.validate_pb2 import *  # noqa: F403
