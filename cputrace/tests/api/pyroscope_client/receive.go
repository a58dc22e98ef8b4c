package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sort"
	"strings"
	"time"

	"connectrpc.com/connect"
	googlev1 "github.com/grafana/pyroscope/api/gen/proto/go/google/v1"
	pushv1 "github.com/grafana/pyroscope/api/gen/proto/go/push/v1"
	"github.com/grafana/pyroscope/api/gen/proto/go/push/v1/pushv1connect"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
	"google.golang.org/protobuf/proto"
)

// Takes what is pushed, with Pyroscope's own service and OpenTelemetry's own messages. The first line of the output is the
// address; each further one a profile: {"from": "pyroscope" | "otlp", "labels": {…}, "types": ["cpu/nanoseconds"], "stacks":
// ["main;work 5"]}, then {"done": true} for each request; or {"refused": true} for each of the first ones, which are answered
// with 503. Pyroscope asks for the user ann, and the other for a token and a tenant.
type receiver struct {
	refusals int
}

func receive(refusals int) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	// Whoever waits for what does not come is not to wait for ever.
	time.AfterFunc(time.Minute, func() { panic("nothing more came") })
	r := &receiver{refusals}
	mux := http.NewServeMux()
	mux.Handle(pushv1connect.NewPusherServiceHandler(r))
	mux.HandleFunc("POST /v1development/profiles", r.otlp)
	print(map[string]any{"address": "http://" + listener.Addr().String()})
	panic(http.Serve(listener, r.gate(mux)))
}

func (r *receiver) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if r.refusals > 0 {
			r.refusals--
			print(map[string]any{"refused": true})
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		user, password, isUser := request.BasicAuth()
		isAnn := isUser && user == "ann" && password == "s@cret"
		hasToken := request.Header.Get("Authorization") == "Bearer token" && request.Header.Get("X-Scope-OrgID") == "team"
		if isOTLP := request.URL.Path == "/v1development/profiles"; isOTLP && !hasToken || !isOTLP && !isAnn {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, request)
	})
}

func (r *receiver) Push(_ context.Context, request *connect.Request[pushv1.PushRequest]) (*connect.Response[pushv1.PushResponse], error) {
	for _, series := range request.Msg.Series {
		labels := map[string]string{}
		for _, label := range series.Labels {
			labels[label.Name] = label.Value
		}
		for _, sample := range series.Samples {
			var profile googlev1.Profile
			if err := proto.Unmarshal(sample.RawProfile, &profile); err != nil {
				return nil, connect.NewError(connect.CodeInvalidArgument, err)
			}
			print(map[string]any{"from": "pyroscope", "labels": labels, "types": types(&profile), "stacks": stacks(&profile)})
		}
	}
	print(map[string]any{"done": true})
	return connect.NewResponse(&pushv1.PushResponse{}), nil
}

func types(profile *googlev1.Profile) []string {
	types := []string{}
	for _, of := range profile.SampleType {
		types = append(types, profile.StringTable[of.Type]+"/"+profile.StringTable[of.Unit])
	}
	return types
}

// Each stack with the first of its values.
func stacks(profile *googlev1.Profile) []string {
	functions := map[uint64]string{}
	for _, function := range profile.Function {
		functions[function.Id] = profile.StringTable[function.Name]
	}
	locations := map[uint64]string{}
	for _, location := range profile.Location {
		names := []string{}
		for _, line := range location.Line {
			names = append([]string{functions[line.FunctionId]}, names...)
		}
		locations[location.Id] = strings.Join(names, ";")
	}
	lines := []string{}
	for _, sample := range profile.Sample {
		names := []string{}
		for _, id := range sample.LocationId {
			names = append([]string{locations[id]}, names...)
		}
		lines = append(lines, fmt.Sprintf("%s %d", strings.Join(names, ";"), sample.Value[0]))
	}
	sort.Strings(lines)
	return lines
}

func (r *receiver) otlp(w http.ResponseWriter, request *http.Request) {
	packed, err := gzip.NewReader(request.Body)
	if err != nil {
		panic(err)
	}
	body, err := io.ReadAll(packed)
	if err != nil {
		panic(err)
	}
	// The request of the service has the same fields.
	var data profilesv1.ProfilesData
	if err := proto.Unmarshal(body, &data); err != nil {
		panic(err)
	}
	d := data.Dictionary
	text := func(row int32) string { return d.StringTable[row] }
	for _, resource := range data.ResourceProfiles {
		labels := map[string]string{}
		for _, attribute := range resource.Resource.Attributes {
			labels[attribute.Key] = attribute.Value.GetStringValue()
		}
		for _, scope := range resource.ScopeProfiles {
			for _, profile := range scope.Profiles {
				lines := []string{}
				for _, sample := range profile.Samples {
					names := []string{}
					for _, location := range d.StackTable[sample.StackIndex].LocationIndices {
						for _, line := range d.LocationTable[location].Lines {
							names = append([]string{text(d.FunctionTable[line.FunctionIndex].NameStrindex)}, names...)
						}
					}
					lines = append(lines, fmt.Sprintf("%s %d", strings.Join(names, ";"), sample.Values[0]))
				}
				sort.Strings(lines)
				of := profile.SampleType
				types := []string{text(of.TypeStrindex) + "/" + text(of.UnitStrindex)}
				if period := profile.PeriodType; period != nil {
					types = append(types, fmt.Sprintf("%s/%s:%d", text(period.TypeStrindex), text(period.UnitStrindex), profile.Period))
				}
				print(map[string]any{"from": "otlp", "labels": labels, "types": types, "stacks": lines})
			}
		}
	}
	print(map[string]any{"done": true})
	w.Header().Set("Content-Type", "application/x-protobuf")
}
