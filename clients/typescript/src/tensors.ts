import { Buffer } from "node:buffer";
import { endianness } from "node:os";

import { create } from "@bufbuild/protobuf";

import { Dtype, RaggedTensorSchema, TensorSchema, type RaggedTensor, type Tensor } from "./v1/types.js";

/** The array types that tensors hold: token ids are Int32Array, logprobs and weights Float32Array. */
export type Element = typeof Int32Array | typeof Float32Array | typeof BigInt64Array;

type Input<E extends Element> = ArrayLike<E extends typeof BigInt64Array ? bigint : number>;
type Output<E extends Element> = InstanceType<E>;

const DTYPES = new Map<Element, Dtype>([
  [Int32Array, Dtype.INT32],
  [Float32Array, Dtype.FLOAT32],
  [BigInt64Array, Dtype.INT64],
]);

/** Values, row-major, as a tensor of this shape; without a shape as a vector. */
export function tensor<E extends Element>(input: Input<E>, element: E, shape = [input.length]): Tensor {
  checkSize(shape, input.length);
  return create(TensorSchema, { dtype: dtypeOf(element), shape: shape.map(BigInt), data: toBytes(input, element) });
}

/** The values of a tensor, row-major. */
export function values<E extends Element>(message: Tensor, element: E): Output<E> {
  const output = fromBytes(message.dtype, message.data, element);
  checkSize(message.shape.map(Number), output.length);
  return output;
}

/** Rows of different lengths as one tensor. */
export function ragged<E extends Element>(input: readonly Input<E>[], element: E): RaggedTensor {
  const offsets = new BigInt64Array(input.length + 1);
  input.forEach((row, i) => (offsets[i + 1] = offsets[i]! + BigInt(row.length)));
  const flat = new Uint8Array(Number(offsets[input.length]) * element.BYTES_PER_ELEMENT);
  input.forEach((row, i) => flat.set(toBytes(row, element), Number(offsets[i]) * element.BYTES_PER_ELEMENT));
  return create(RaggedTensorSchema, {
    dtype: dtypeOf(element),
    offsets: toBytes(offsets, BigInt64Array),
    data: flat,
  });
}

/** The rows of a ragged tensor; the elements of an inner shape follow one another, row-major. */
export function rows<E extends Element>(message: RaggedTensor, element: E): Output<E>[] {
  const flat = fromBytes(message.dtype, message.data, element);
  if (message.offsets.length === 0 && flat.length === 0) return [];
  const offsets = Array.from(fromBytes(Dtype.INT64, message.offsets, BigInt64Array), Number);
  const width = product(message.innerShape.map(Number));
  checkOffsets(offsets, flat.length, width);
  return offsets.slice(1).map((end, i) => flat.subarray(offsets[i]! * width, end * width) as Output<E>);
}

function checkOffsets(offsets: number[], length: number, width: number): void {
  if (width < 1 || length % width !== 0) {
    throw new RangeError(`${length} values are no whole number of elements of ${width}`);
  }
  const rises = offsets.every((offset, i) => i === 0 || offsets[i - 1]! <= offset);
  if (offsets[0] !== 0 || offsets.at(-1) !== length / width || !rises) {
    throw new RangeError(`offsets must rise from 0 to the ${length / width} elements of the data`);
  }
}

function checkSize(shape: number[], length: number): void {
  if (product(shape) !== length) {
    throw new RangeError(`a tensor of shape [${shape}] holds ${product(shape)} values, not ${length}`);
  }
}

function dtypeOf(element: Element): Dtype {
  const dtype = DTYPES.get(element);
  if (dtype === undefined) throw new TypeError("tensors hold Int32Array, Float32Array or BigInt64Array");
  return dtype;
}

function toBytes<E extends Element>(input: Input<E>, element: E): Uint8Array {
  const copy = new (element as unknown as new (input: Input<E>) => Output<E>)(input);
  return littleEndian(new Uint8Array(copy.buffer), element);
}

function fromBytes<E extends Element>(dtype: Dtype, data: Uint8Array, element: E): Output<E> {
  if (dtype !== dtypeOf(element)) {
    throw new TypeError(`the tensor holds ${Dtype[dtype] ?? dtype}, not ${Dtype[dtypeOf(element)]}`);
  }
  if (data.length % element.BYTES_PER_ELEMENT !== 0) {
    throw new RangeError(`${data.length} bytes are no whole number of ${Dtype[dtype]} values`);
  }
  // A copy, because a message's bytes need not lie on a boundary of the element.
  return new element(littleEndian(Uint8Array.from(data), element).buffer) as Output<E>;
}

/** Swaps in place where the machine is not little-endian. */
function littleEndian(bytes: Uint8Array<ArrayBuffer>, element: Element): Uint8Array<ArrayBuffer> {
  if (endianness() === "BE") {
    const view = Buffer.from(bytes.buffer);
    if (element.BYTES_PER_ELEMENT === 8) view.swap64();
    else view.swap32();
  }
  return bytes;
}

function product(shape: number[]): number {
  return shape.reduce((size, extent) => size * extent, 1);
}
