// Calls a Pyroscope by the very client that Grafana uses. Each line of the input is a call, each line of the output its answer:
//
//	in   {"codec": "binary" | "json", "prefix": "/pyroscope", "method": "ProfileTypes", "request": {…}, "as": "json"}
//	out  {"answer": {…}} or {"code": "invalid_argument", "error": "…"}
//
// Answers are JSON, or, as "folded", a flame graph's stacks, found in its levels as Grafana's data source finds them; as a
// path, pprof in a file.
package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	querierv1 "github.com/grafana/pyroscope/api/gen/proto/go/querier/v1"
	"github.com/grafana/pyroscope/api/gen/proto/go/querier/v1/querierv1connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

type call struct {
	Codec   string
	Prefix  string
	Method  string
	Request json.RawMessage
	As      string
}

func main() {
	if os.Args[1] == "receive" {
		refusals, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		receive(refusals)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var c call
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			panic(err)
		}
		answer, err := c.run(os.Args[1])
		if err != nil {
			print(map[string]any{"code": connect.CodeOf(err).String(), "error": err.Error()})
		} else {
			print(map[string]any{"answer": answer})
		}
	}
}

func print(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func (c *call) run(url string) (any, error) {
	var options []connect.ClientOption
	if c.Codec == "json" {
		options = append(options, connect.WithProtoJSON())
	}
	client := querierv1connect.NewQuerierServiceClient(http.DefaultClient, url+c.Prefix, options...)
	answer, err := c.send(client)
	if err != nil {
		return nil, err
	}
	switch {
	case c.As == "folded":
		graph := answer.(*querierv1.SelectMergeStacktracesResponse).Flamegraph
		return folded(graph), nil
	case c.As != "":
		return nil, write(answer, c.As)
	}
	text, err := protojson.Marshal(answer)
	return json.RawMessage(text), err
}

func (c *call) send(client querierv1connect.QuerierServiceClient) (proto.Message, error) {
	switch c.Method {
	case "ProfileTypes":
		return send(c, client.ProfileTypes)
	case "LabelNames":
		return send(c, client.LabelNames)
	case "LabelValues":
		return send(c, client.LabelValues)
	case "Series":
		return send(c, client.Series)
	case "SelectSeries":
		return send(c, client.SelectSeries)
	case "SelectMergeStacktraces":
		return send(c, client.SelectMergeStacktraces)
	case "SelectMergeProfile":
		return send(c, client.SelectMergeProfile)
	case "SelectMergeSpanProfile":
		return send(c, client.SelectMergeSpanProfile)
	case "SelectHeatmap":
		return send(c, client.SelectHeatmap)
	case "Diff":
		return send(c, client.Diff)
	case "GetProfileStats":
		return send(c, client.GetProfileStats)
	case "AnalyzeQuery":
		return send(c, client.AnalyzeQuery)
	}
	panic("no method " + c.Method)
}

func send[Q, A any, PQ interface {
	*Q
	proto.Message
}, PA interface {
	*A
	proto.Message
}](c *call, method func(context.Context, *connect.Request[Q]) (*connect.Response[A], error)) (proto.Message, error) {
	request := PQ(new(Q))
	if err := protojson.Unmarshal(c.Request, request); err != nil {
		panic(err)
	}
	answer, err := method(context.Background(), connect.NewRequest((*Q)(request)))
	if err != nil {
		return nil, err
	}
	return PA(answer.Msg), nil
}

func write(message proto.Message, path string) error {
	plain, err := proto.Marshal(message)
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	packed := gzip.NewWriter(file)
	if _, err := packed.Write(plain); err != nil {
		return err
	}
	return packed.Close()
}

// A bar of a level, and where it lies.
type bar struct {
	from, to int64
	stack    string
}

// Each stack with its own samples, as "a;b 5". A bar's caller is the last one of the level above that begins at or before it,
// and has to reach as far.
func folded(graph *querierv1.FlameGraph) []string {
	lines := []string{}
	if graph == nil {
		return lines
	}
	above := []bar{}
	for depth, level := range graph.Levels {
		if len(level.Values) == 0 || len(level.Values)%4 != 0 {
			panic(fmt.Sprintf("level %d has %d values", depth, len(level.Values)))
		}
		var bars []bar
		at, caller := int64(0), 0
		for i := 0; i < len(level.Values); i += 4 {
			from := at + level.Values[i]
			to := from + level.Values[i+1]
			self, name := level.Values[i+2], graph.Names[level.Values[i+3]]
			stack := ""
			if depth == 0 {
				if from != 0 || to != graph.Total || len(level.Values) != 4 {
					panic("the root is not all there is")
				}
			} else {
				for caller+1 < len(above) && above[caller+1].from <= from {
					caller++
				}
				if from < above[caller].from || to > above[caller].to {
					panic(fmt.Sprintf("%s lies outside of its caller", name))
				}
				stack = strings.TrimPrefix(above[caller].stack+";"+name, ";")
			}
			if self > 0 {
				lines = append(lines, fmt.Sprintf("%s %d", stack, self))
			}
			bars = append(bars, bar{from, to, stack})
			at = to
		}
		above = bars
	}
	sort.Strings(lines)
	return lines
}
