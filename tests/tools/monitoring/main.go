// Command monitoring reads objects of the Prometheus operator from standard input, as YAML, into the operator's own types.
// It fails at a field that they do not have, and at a value of another type.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"

	v1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

func main() {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	for {
		document, err := reader.Read()
		if err == io.EOF {
			return
		}
		if err == nil {
			err = check(document)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func check(document []byte) error {
	var about struct{ Kind string }
	if err := yaml.Unmarshal(document, &about); err != nil {
		return err
	}
	var object any
	switch about.Kind {
	case v1.ServiceMonitorsKind:
		object = &v1.ServiceMonitor{}
	case v1.PodMonitorsKind:
		object = &v1.PodMonitor{}
	case v1.PrometheusRuleKind:
		object = &v1.PrometheusRule{}
	default:
		return fmt.Errorf("%q is no kind of the Prometheus operator that is known here", about.Kind)
	}
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return fmt.Errorf("%s: %w", about.Kind, err)
	}
	fmt.Println(about.Kind)
	return nil
}
