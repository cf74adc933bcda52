/** Messages, enums and services of tinsmith.trainer.v1. */
export * from "../gen/tinsmith/trainer/v1/checkpoint_pb.js";
export * from "../gen/tinsmith/trainer/v1/checkpoint_service_pb.js";
export * from "../gen/tinsmith/trainer/v1/loss_pb.js";
export * from "../gen/tinsmith/trainer/v1/trainer_service_pb.js";
