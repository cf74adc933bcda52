/** Messages, enums and services of tinsmith.types.v1. */
export * from "../gen/tinsmith/types/v1/data_pb.js";
export * from "../gen/tinsmith/types/v1/message_pb.js";
export * from "../gen/tinsmith/types/v1/model_pb.js";
export * from "../gen/tinsmith/types/v1/options_pb.js";
export * from "../gen/tinsmith/types/v1/queue_pb.js";
export * from "../gen/tinsmith/types/v1/row_pb.js";
export * from "../gen/tinsmith/types/v1/tensor_pb.js";
