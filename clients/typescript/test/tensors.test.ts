import assert from "node:assert/strict";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { ragged, rows, tensor, values } from "@tinsmith/client";
import { Dtype, RaggedTensorSchema } from "@tinsmith/client/types/v1";

test("ragged rows are little-endian with offsets in elements", () => {
  const message = ragged([[1, -2], [], [258]], Int32Array);
  assert.equal(message.dtype, Dtype.INT32);
  assert.deepEqual([...message.data], [1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 2, 1, 0, 0]);
  const offsets = [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
  assert.deepEqual([...message.offsets], offsets);
});

test("rows come back as they were", () => {
  const input = [Float32Array.of(0.5, -Infinity), Float32Array.of(), Float32Array.of(3.4028234663852886e38, -0)];
  assert.deepEqual(rows(ragged(input, Float32Array), Float32Array), input);
  assert.deepEqual(rows(ragged([[1n << 62n]], BigInt64Array), BigInt64Array), [BigInt64Array.of(1n << 62n)]);
  assert.deepEqual(rows(create(RaggedTensorSchema, { dtype: Dtype.INT32 }), Int32Array), []);
});

test("rows that lie on no boundary of their element are read", () => {
  const message = ragged([[7, 8]], Int32Array);
  const shifted = new Uint8Array(message.data.length + 1);
  shifted.set(message.data, 1);
  message.data = shifted.subarray(1);
  assert.deepEqual(rows(message, Int32Array), [Int32Array.of(7, 8)]);
});

test("rows of vectors count in vectors", () => {
  const message = ragged([[1], [2, 3]], Int32Array);
  message.innerShape = [2n];
  message.data = ragged([[10, 11, 20, 21, 30, 31]], Int32Array).data;
  assert.deepEqual(rows(message, Int32Array), [Int32Array.of(10, 11), Int32Array.of(20, 21, 30, 31)]);
});

test("malformed ragged tensors are refused", () => {
  const good = () => ragged([[1, 2], [3]], Int32Array);
  const offsets = (...numbers: bigint[]) => ragged([numbers], BigInt64Array).data;
  const cases = {
    "other type": { dtype: Dtype.FLOAT32 },
    "half a value": { data: good().data.subarray(0, 11) },
    "half an offset": { offsets: good().offsets.subarray(0, 23) },
    "no offsets": { offsets: new Uint8Array() },
    "begins behind 0": { offsets: offsets(1n, 2n, 3n) },
    falls: { offsets: offsets(0n, 3n, 2n, 3n) },
    negative: { offsets: offsets(0n, -1n, 3n) },
    "ends early": { offsets: offsets(0n, 2n) },
    "ends late": { offsets: offsets(0n, 4n) },
    "half an inner shape": { offsets: offsets(0n, 1n), innerShape: [2n] },
    "empty inner shape": { offsets: offsets(0n, 1n), innerShape: [0n] },
  };
  for (const [name, change] of Object.entries(cases)) {
    assert.throws(() => rows({ ...good(), ...change }, Int32Array), /RangeError|TypeError/, name);
  }
});

test("a tensor holds the product of its shape", () => {
  const message = tensor([1, 2, 3, 4, 5, 6], Float32Array, [2, 3]);
  assert.deepEqual(values(message, Float32Array), Float32Array.of(1, 2, 3, 4, 5, 6));
  assert.deepEqual(tensor([1, 2], Int32Array).shape, [2n]);
  assert.throws(() => tensor([1, 2, 3], Float32Array, [2, 2]), RangeError);
  message.shape[0] = 3n;
  assert.throws(() => values(message, Float32Array), RangeError);
});
