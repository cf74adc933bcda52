/** Messages, enums and services of tinsmith.sampler.v1. */
export * from "../gen/tinsmith/sampler/v1/sampler_service_pb.js";
