/** Messages, enums and services of tinsmith.grader.v1. */
export * from "../gen/tinsmith/grader/v1/grader_service_pb.js";
