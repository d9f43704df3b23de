// What hashicorp/hcl does with the texts of row 4: parse, evaluate and decode every block, several times.
//
//	hcl PASSES FILE...
//
// Prints for each pass: microseconds on the wall, microseconds of processors, pools, desktops. A text that is wrong
// is refused with its places on standard error.
package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

type locals struct {
	Rest hcl.Body `hcl:",remain"`
}

type window struct {
	Name string `hcl:"name,label"`
	Days string `hcl:"days"`
	From string `hcl:"from"`
	To   string `hcl:"to"`
}

type network struct {
	Name   string `hcl:"name,label"`
	Bridge string `hcl:"bridge"`
	VLAN   int    `hcl:"vlan,optional"`
}

type image struct {
	Name    string `hcl:"name,label"`
	Version string `hcl:"version"`
	OS      string `hcl:"os"`
	Keep    int    `hcl:"keep,optional"`
}

type template struct {
	Name    string   `hcl:"name,label"`
	Image   string   `hcl:"image"`
	CPUs    int      `hcl:"cpus,optional"`
	Memory  string   `hcl:"memory"`
	Disk    string   `hcl:"disk,optional"`
	Network []string `hcl:"network,optional"`
	Display []string `hcl:"display,optional"`
}

type rollout struct {
	MaxUnavailable string `hcl:"max_unavailable,optional"`
	Canary         int    `hcl:"canary,optional"`
	HealthyAfter   string `hcl:"healthy_after,optional"`
	Window         string `hcl:"window,optional"`
}

type schedule struct {
	Name  string `hcl:"name,label"`
	Days  string `hcl:"days"`
	From  string `hcl:"from"`
	To    string `hcl:"to"`
	Spare int    `hcl:"spare"`
}

type power struct {
	Spare     int        `hcl:"spare,optional"`
	Schedules []schedule `hcl:"schedule,block"`
}

type policy struct {
	Name    string   `hcl:"name,label"`
	Rollout *rollout `hcl:"rollout,block"`
	Power   *power   `hcl:"power,block"`
}

type pool struct {
	Name       string   `hcl:"name,label"`
	Template   string   `hcl:"template"`
	Desktops   int      `hcl:"desktops"`
	Slots      int      `hcl:"slots,optional"`
	Hostname   string   `hcl:"hostname,optional"`
	Assignment string   `hcl:"assignment,optional"`
	Policies   []string `hcl:"policies,optional"`
	Servers    []string `hcl:"servers,optional"`
	Protect    bool     `hcl:"protect,optional"`
}

type file struct {
	Locals    []locals   `hcl:"locals,block"`
	Windows   []window   `hcl:"window,block"`
	Networks  []network  `hcl:"network,block"`
	Images    []image    `hcl:"image,block"`
	Templates []template `hcl:"template,block"`
	Policies  []policy   `hcl:"policy,block"`
	Pools     []pool     `hcl:"pool,block"`
}

func refuse(diagnostics hcl.Diagnostics) {
	for _, each := range diagnostics {
		fmt.Fprintln(os.Stderr, each.Error())
	}
	os.Exit(1)
}

// The names that expressions may refer to: every block by kind and label, and the locals.
func names(bodies []*hclsyntax.Body) *hcl.EvalContext {
	kinds := map[string]map[string]cty.Value{"local": {}}
	for _, body := range bodies {
		for _, block := range body.Blocks {
			if block.Type == "locals" {
				for name, attribute := range block.Body.Attributes {
					value, diagnostics := attribute.Expr.Value(nil)
					if diagnostics.HasErrors() {
						refuse(diagnostics)
					}
					kinds["local"][name] = value
				}
				continue
			}
			if kinds[block.Type] == nil {
				kinds[block.Type] = map[string]cty.Value{}
			}
			for _, label := range block.Labels {
				kinds[block.Type][label] = cty.StringVal(label)
			}
		}
	}
	variables := map[string]cty.Value{}
	for kind, known := range kinds {
		variables[kind] = cty.ObjectVal(known)
	}
	return &hcl.EvalContext{Variables: variables}
}

func pass(paths []string, texts [][]byte) (pools, desktops int) {
	bodies := make([]*hclsyntax.Body, len(texts))
	for i, text := range texts {
		parsed, diagnostics := hclsyntax.ParseConfig(text, paths[i], hcl.InitialPos)
		if diagnostics.HasErrors() {
			refuse(diagnostics)
		}
		bodies[i] = parsed.Body.(*hclsyntax.Body)
	}
	context := names(bodies)
	for _, body := range bodies {
		var decoded file
		if diagnostics := gohcl.DecodeBody(body, context, &decoded); diagnostics.HasErrors() {
			refuse(diagnostics)
		}
		pools += len(decoded.Pools)
		for _, each := range decoded.Pools {
			desktops += each.Desktops
		}
	}
	return pools, desktops
}

func processors() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return (usage.Utime.Nano() + usage.Stime.Nano()) / 1000
}

func main() {
	passes, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	paths := os.Args[2:]
	texts := make([][]byte, len(paths))
	for i, path := range paths {
		if texts[i], err = os.ReadFile(path); err != nil {
			panic(err)
		}
	}
	for ; passes > 0; passes-- {
		begun, used := time.Now(), processors()
		pools, desktops := pass(paths, texts)
		fmt.Println(time.Since(begun).Microseconds(), processors()-used, pools, desktops)
	}
}
