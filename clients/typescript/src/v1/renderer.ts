/** Messages, enums and services of tinsmith.renderer.v1. */
export * from "../gen/tinsmith/renderer/v1/renderer_service_pb.js";
