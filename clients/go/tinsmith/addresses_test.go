package tinsmith_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tinsmith-dev/tinsmith/clients/go/tinsmith"
)

const suiteState = `{"services": {
	"trainer": {"address": "127.0.0.1:7001", "pid": 1},
	"sampler": {"address": "unix:/run/sampler.sock", "pid": 2},
	"grader": {"address": "127.0.0.1:7004", "pid": 3},
	"gateway": {"address": "127.0.0.1:8080", "pid": 4}
}}`

func TestGivenAddressesComeBeforeTheEnvironmentTheHomeAndTheDefaults(t *testing.T) {
	home := homeWith(t, suiteState)
	t.Setenv("TINSMITH_TRAINER_ADDRESS", "trainer.example:1")
	t.Setenv("TINSMITH_GRADER_ADDRESS", "grader.example:1")
	addresses, err := tinsmith.FindAddresses(home, tinsmith.Addresses{Grader: "mine:1"})
	if err != nil {
		t.Fatal(err)
	}
	want := tinsmith.Addresses{
		Grader:       "mine:1",
		Trainer:      "trainer.example:1",
		Sampler:      "unix:/run/sampler.sock",
		Dataset:      "127.0.0.1:50053",
		Environment:  "127.0.0.1:50055",
		Orchestrator: "127.0.0.1:50056",
	}
	if addresses != want {
		t.Errorf("found %+v", addresses)
	}
}

func TestHomeOfTheEnvironmentIsReadAndMayBeEmpty(t *testing.T) {
	t.Setenv("TINSMITH_HOME", homeWith(t, suiteState))
	if addresses, err := tinsmith.FindAddresses("", tinsmith.Addresses{}); err != nil || addresses.Trainer != "127.0.0.1:7001" {
		t.Errorf("found %+v, %v", addresses, err)
	}
	t.Setenv("TINSMITH_HOME", t.TempDir())
	if addresses, err := tinsmith.FindAddresses("", tinsmith.Addresses{}); err != nil || addresses.Trainer != "127.0.0.1:50051" {
		t.Errorf("found %+v, %v", addresses, err)
	}
}

func TestNamedHomeWithoutASuiteSaysHowToStartOne(t *testing.T) {
	home := t.TempDir()
	_, err := tinsmith.Connect(tinsmith.Options{Home: home})
	if err == nil || !strings.Contains(err.Error(), "tinsmith up --home "+home) {
		t.Errorf("got %v", err)
	}
}

func TestDamagedStateNamesItsFile(t *testing.T) {
	home := homeWith(t, `{"services": [`)
	_, err := tinsmith.Connect(tinsmith.Options{Home: home})
	if err == nil || !strings.Contains(err.Error(), filepath.Join(home, "suite.json")) {
		t.Errorf("got %v", err)
	}
}

func homeWith(t *testing.T, state string) string {
	t.Helper()
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "suite.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	return home
}
