package tinsmith

import (
	"bytes"
	"encoding/binary"
	"fmt"

	typesv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/types/v1"
)

// Element is a type that tensors hold: token ids are int32, logprobs and weights float32.
type Element interface{ int32 | int64 | float32 }

// NewTensor returns values, row-major, as a tensor of this shape; without a shape as a vector.
func NewTensor[T Element](values []T, shape ...int64) (*typesv1.Tensor, error) {
	if len(shape) == 0 {
		shape = []int64{int64(len(values))}
	}
	if size := product(shape); size != int64(len(values)) {
		return nil, fmt.Errorf("a tensor of shape %v holds %d values, not %d", shape, size, len(values))
	}
	return &typesv1.Tensor{Dtype: dtypeOf[T](), Shape: shape, Data: toBytes(values)}, nil
}

// Values returns the values of a tensor, row-major.
func Values[T Element](tensor *typesv1.Tensor) ([]T, error) {
	values, err := fromBytes[T](tensor.GetDtype(), tensor.GetData())
	if err != nil {
		return nil, err
	}
	if size := product(tensor.GetShape()); size != int64(len(values)) {
		return nil, fmt.Errorf("a tensor of shape %v holds %d values, not %d", tensor.GetShape(), size, len(values))
	}
	return values, nil
}

// Ragged returns rows of different lengths as one tensor.
func Ragged[T Element](rows [][]T) *typesv1.RaggedTensor {
	offsets := make([]int64, 1, len(rows)+1)
	var flat []T
	for _, row := range rows {
		flat = append(flat, row...)
		offsets = append(offsets, int64(len(flat)))
	}
	return &typesv1.RaggedTensor{Dtype: dtypeOf[T](), Offsets: toBytes(offsets), Data: toBytes(flat)}
}

// Rows returns the rows of a ragged tensor; the elements of an inner shape follow one another, row-major.
func Rows[T Element](ragged *typesv1.RaggedTensor) ([][]T, error) {
	flat, err := fromBytes[T](ragged.GetDtype(), ragged.GetData())
	if err != nil {
		return nil, err
	}
	if len(ragged.GetOffsets()) == 0 && len(flat) == 0 {
		return nil, nil
	}
	offsets, err := fromBytes[int64](typesv1.Dtype_DTYPE_INT64, ragged.GetOffsets())
	if err != nil {
		return nil, fmt.Errorf("offsets: %w", err)
	}
	width := product(ragged.GetInnerShape())
	if err := checkOffsets(offsets, width, int64(len(flat))); err != nil {
		return nil, err
	}
	rows := make([][]T, len(offsets)-1)
	for i := range rows {
		rows[i] = flat[offsets[i]*width : offsets[i+1]*width]
	}
	return rows, nil
}

func checkOffsets(offsets []int64, width, values int64) error {
	if width < 1 || values%width != 0 {
		return fmt.Errorf("%d values are no whole number of elements of %d", values, width)
	}
	rises := len(offsets) > 0 && offsets[0] == 0 && offsets[len(offsets)-1] == values/width
	for i := 1; rises && i < len(offsets); i++ {
		rises = offsets[i-1] <= offsets[i]
	}
	if !rises {
		return fmt.Errorf("offsets must rise from 0 to the %d elements of the data", values/width)
	}
	return nil
}

func dtypeOf[T Element]() typesv1.Dtype {
	switch any(*new(T)).(type) {
	case int32:
		return typesv1.Dtype_DTYPE_INT32
	case int64:
		return typesv1.Dtype_DTYPE_INT64
	default:
		return typesv1.Dtype_DTYPE_FLOAT32
	}
}

func toBytes[T Element](values []T) []byte {
	buffer := make([]byte, 0, binary.Size(values))
	data, err := binary.Append(buffer, binary.LittleEndian, values)
	if err != nil {
		panic(err) // Every Element has a fixed size, and only others fail.
	}
	return data
}

func fromBytes[T Element](dtype typesv1.Dtype, data []byte) ([]T, error) {
	if dtype != dtypeOf[T]() {
		return nil, fmt.Errorf("the tensor holds %v, not %v", dtype, dtypeOf[T]())
	}
	size := binary.Size(*new(T))
	if len(data)%size != 0 {
		return nil, fmt.Errorf("%d bytes are no whole number of %v values", len(data), dtype)
	}
	values := make([]T, len(data)/size)
	return values, binary.Read(bytes.NewReader(data), binary.LittleEndian, values)
}

func product(shape []int64) int64 {
	size := int64(1)
	for _, extent := range shape {
		size *= extent
	}
	return size
}
