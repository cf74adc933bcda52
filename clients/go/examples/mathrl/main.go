// Trains a small language model to add by reinforcement learning, then asks it a question.
//
//	tinsmith up &
//	go run ./examples/mathrl steps=20
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"

	orchestratorv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/orchestrator/v1"
	rendererv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/renderer/v1"
	samplerv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/sampler/v1"
	typesv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/types/v1"
	"github.com/tinsmith-dev/tinsmith/clients/go/tinsmith"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	suite, err := tinsmith.Connect(tinsmith.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer suite.Close()
	run, err := train(ctx, suite, overrides(os.Args[1:]))
	if err != nil {
		log.Fatal(err)
	}
	answer, err := ask(ctx, suite, run, "What is 3 + 4?")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("What is 3 + 4? %s\n", answer)
}

// train runs the recipe math_rl to its end.
func train(ctx context.Context, suite *tinsmith.Suite, overrides map[string]string) (*orchestratorv1.Run, error) {
	request := &orchestratorv1.StartRunRequest{Recipe: "math_rl", Overrides: overrides}
	started, err := suite.Orchestrator.StartRun(ctx, request)
	if err != nil {
		return nil, err
	}
	for event, err := range suite.WatchRun(ctx, started.Run.RunId, 0) {
		if err != nil {
			return nil, err
		}
		if step := event.GetStepCompleted(); step != nil {
			fmt.Printf("step %d/%d: reward %.3f\n", event.Step, started.Run.TotalSteps, step.Metrics["env/all/reward/total"])
		}
	}
	ended, err := suite.Orchestrator.GetRun(ctx, &orchestratorv1.GetRunRequest{RunId: started.Run.RunId})
	if err != nil {
		return nil, err
	}
	if run := ended.Run; run.State != orchestratorv1.RunState_RUN_STATE_COMPLETED {
		return nil, fmt.Errorf("run %s ended as %v: %s", run.RunId, run.State, run.GetError().GetMessage())
	}
	return ended.Run, nil
}

// ask puts one question to the model that a run has trained.
func ask(ctx context.Context, suite *tinsmith.Suite, run *orchestratorv1.Run, question string) (string, error) {
	config := run.Config.GetMathRl()
	prompt, err := suite.Renderer.RenderPrompts(ctx, &rendererv1.RenderPromptsRequest{
		Model:    config.GetBaseModel(),
		Renderer: config.GetRenderer(),
		Conversations: []*typesv1.Conversation{
			{Messages: []*typesv1.Message{{Role: "user", Content: question}}},
		},
	})
	if err != nil {
		return "", err
	}
	greedy := 0.0
	answers, err := suite.Sampler.Sample(ctx, &samplerv1.SampleRequest{
		Model:      &samplerv1.ModelRef{Model: &samplerv1.ModelRef_CheckpointUri{CheckpointUri: run.SamplerUri}},
		Prompts:    prompt.Tokens,
		Params:     &samplerv1.SamplingParams{MaxTokens: config.GetMaxTokens(), Temperature: &greedy, Stop: prompt.Stop},
		ReturnText: true,
	})
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(answers.Texts[0]), nil
}

// overrides reads arguments like steps=20.
func overrides(arguments []string) map[string]string {
	values := map[string]string{}
	for _, argument := range arguments {
		key, value, _ := strings.Cut(argument, "=")
		values[key] = value
	}
	return values
}
