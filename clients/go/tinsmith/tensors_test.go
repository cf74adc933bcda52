package tinsmith_test

import (
	"bytes"
	"math"
	"reflect"
	"testing"

	typesv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/types/v1"
	"github.com/tinsmith-dev/tinsmith/clients/go/tinsmith"
)

func TestRaggedRowsAreLittleEndianWithOffsetsInElements(t *testing.T) {
	ragged := tinsmith.Ragged([][]int32{{1, -2}, {}, {258}})
	if ragged.Dtype != typesv1.Dtype_DTYPE_INT32 {
		t.Errorf("dtype %v", ragged.Dtype)
	}
	if want := []byte{1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 2, 1, 0, 0}; !bytes.Equal(ragged.Data, want) {
		t.Errorf("data %v", ragged.Data)
	}
	offsets := []byte{
		0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
		2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
	}
	if !bytes.Equal(ragged.Offsets, offsets) {
		t.Errorf("offsets %v", ragged.Offsets)
	}
}

func TestRowsComeBackAsTheyWere(t *testing.T) {
	rows := [][]float32{{0.5, float32(math.Inf(-1))}, {}, {math.MaxFloat32, -0}}
	if back, err := tinsmith.Rows[float32](tinsmith.Ragged(rows)); err != nil || !reflect.DeepEqual(back, rows) {
		t.Errorf("%v came back as %v, %v", rows, back, err)
	}
	if back, err := tinsmith.Rows[int32](&typesv1.RaggedTensor{Dtype: typesv1.Dtype_DTYPE_INT32}); err != nil || len(back) != 0 {
		t.Errorf("no rows came back as %v, %v", back, err)
	}
}

func TestRowsOfVectorsCountInVectors(t *testing.T) {
	ragged := tinsmith.Ragged([][]int64{{1}, {2, 3}})
	ragged.InnerShape = []int64{2}
	ragged.Data = tinsmith.Ragged([][]int64{{10, 11, 20, 21, 30, 31}}).Data
	rows, err := tinsmith.Rows[int64](ragged)
	if want := [][]int64{{10, 11}, {20, 21, 30, 31}}; err != nil || !reflect.DeepEqual(rows, want) {
		t.Errorf("got %v, %v", rows, err)
	}
}

func TestMalformedRaggedTensorsAreRefused(t *testing.T) {
	good := tinsmith.Ragged([][]int32{{1, 2}, {3}})
	offsets := func(values ...int64) []byte { return tinsmith.Ragged([][]int64{values}).Data }
	cases := map[string]*typesv1.RaggedTensor{
		"other type":          {Dtype: typesv1.Dtype_DTYPE_FLOAT32, Offsets: good.Offsets, Data: good.Data},
		"half a value":        {Dtype: good.Dtype, Offsets: good.Offsets, Data: good.Data[:11]},
		"half an offset":      {Dtype: good.Dtype, Offsets: good.Offsets[:23], Data: good.Data},
		"no offsets":          {Dtype: good.Dtype, Data: good.Data},
		"begins behind 0":     {Dtype: good.Dtype, Offsets: offsets(1, 2, 3), Data: good.Data},
		"falls":               {Dtype: good.Dtype, Offsets: offsets(0, 3, 2, 3), Data: good.Data},
		"negative":            {Dtype: good.Dtype, Offsets: offsets(0, -1, 3), Data: good.Data},
		"ends early":          {Dtype: good.Dtype, Offsets: offsets(0, 2), Data: good.Data},
		"ends late":           {Dtype: good.Dtype, Offsets: offsets(0, 4), Data: good.Data},
		"half an inner shape": {Dtype: good.Dtype, Offsets: offsets(0, 1), Data: good.Data, InnerShape: []int64{2}},
		"empty inner shape":   {Dtype: good.Dtype, Offsets: offsets(0, 1), Data: good.Data, InnerShape: []int64{0}},
	}
	for name, ragged := range cases {
		if rows, err := tinsmith.Rows[int32](ragged); err == nil {
			t.Errorf("%s: read as %v", name, rows)
		}
	}
}

func TestTensorHoldsTheProductOfItsShape(t *testing.T) {
	tensor, err := tinsmith.NewTensor([]float32{1, 2, 3, 4, 5, 6}, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	values, err := tinsmith.Values[float32](tensor)
	if err != nil || !reflect.DeepEqual(values, []float32{1, 2, 3, 4, 5, 6}) {
		t.Errorf("got %v, %v", values, err)
	}
	if _, err := tinsmith.NewTensor([]float32{1, 2, 3}, 2, 2); err == nil {
		t.Error("3 values were taken for a 2x2 tensor")
	}
	tensor.Shape[0] = 3
	if _, err := tinsmith.Values[float32](tensor); err == nil {
		t.Error("6 values were read as a 3x3 tensor")
	}
}
