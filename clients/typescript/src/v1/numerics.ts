/** Messages and services of tinsmith.numerics.v1. */
export * from "../gen/tinsmith/numerics/v1/numerics_service_pb.js";
