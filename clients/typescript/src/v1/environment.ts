/** Messages, enums and services of tinsmith.environment.v1. */
export * from "../gen/tinsmith/environment/v1/environment_service_pb.js";
