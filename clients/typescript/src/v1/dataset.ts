/** Messages, enums and services of tinsmith.dataset.v1. */
export * from "../gen/tinsmith/dataset/v1/dataset_service_pb.js";
export * from "../gen/tinsmith/dataset/v1/spec_pb.js";
