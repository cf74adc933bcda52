package tinsmith

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Addresses says where the processes of a suite listen: host:port, unix:path or any other gRPC target.
type Addresses struct {
	Trainer     string
	Sampler     string
	Dataset     string // serves DatasetService and RendererService
	Grader      string
	Environment string
	// Orchestrator runs the recipes.
	Orchestrator string
}

var defaultAddresses = map[string]string{
	"trainer":      "127.0.0.1:50051",
	"sampler":      "127.0.0.1:50052",
	"dataset":      "127.0.0.1:50053",
	"grader":       "127.0.0.1:50054",
	"environment":  "127.0.0.1:50055",
	"orchestrator": "127.0.0.1:50056",
}

// FindAddresses completes what is given: from the environment (TINSMITH_TRAINER_ADDRESS and so on), then from the suite
// that `tinsmith up` started in home, then with the default ports.
//
// An empty home means $TINSMITH_HOME, or ~/.tinsmith; it is an error only for a home that was named to hold no suite.
func FindAddresses(home string, given Addresses) (Addresses, error) {
	ofHome, err := addressesOfHome(home)
	if err != nil {
		return Addresses{}, err
	}
	for name, address := range given.byName() {
		for _, candidate := range []string{*address, os.Getenv(variable(name)), ofHome[name], defaultAddresses[name]} {
			if candidate != "" {
				*address = candidate
				break
			}
		}
	}
	return given, nil
}

func (a *Addresses) byName() map[string]*string {
	return map[string]*string{
		"trainer":      &a.Trainer,
		"sampler":      &a.Sampler,
		"dataset":      &a.Dataset,
		"grader":       &a.Grader,
		"environment":  &a.Environment,
		"orchestrator": &a.Orchestrator,
	}
}

func variable(service string) string {
	return "TINSMITH_" + strings.ToUpper(service) + "_ADDRESS"
}

// addressesOfHome reads suite.json, in which `tinsmith up` keeps the state of its processes.
func addressesOfHome(home string) (map[string]string, error) {
	folder, err := homeFolder(home)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(folder, "suite.json")
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if home == "" {
			return nil, nil
		}
		return nil, fmt.Errorf("no suite has run in %s: start one with `tinsmith up --home %s`", home, home)
	}
	if err != nil {
		return nil, err
	}
	var state struct {
		Services map[string]struct{ Address string }
	}
	if err := json.Unmarshal(content, &state); err != nil {
		return nil, fmt.Errorf("%s is not the state of a suite: %w", file, err)
	}
	addresses := map[string]string{}
	for name, service := range state.Services {
		addresses[name] = service.Address
	}
	return addresses, nil
}

func homeFolder(home string) (string, error) {
	if home != "" {
		return home, nil
	}
	if home = os.Getenv("TINSMITH_HOME"); home != "" {
		return home, nil
	}
	user, err := os.UserHomeDir()
	return filepath.Join(user, ".tinsmith"), err
}
