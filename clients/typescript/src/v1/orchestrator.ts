/** Messages, enums and services of tinsmith.orchestrator.v1. */
export * from "../gen/tinsmith/orchestrator/v1/orchestrator_service_pb.js";
export * from "../gen/tinsmith/orchestrator/v1/recipe_pb.js";
export * from "../gen/tinsmith/orchestrator/v1/run_pb.js";
