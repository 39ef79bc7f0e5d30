// Applies two ConfigMaps, and follows the ConfigMaps and Secrets of a namespace over gRPC.
//
//	protoc -I ../../../proto --go_out=. --go_opt=module=balsa.dev/examples/follow \
//	  --go_opt=Mbalsa/v1/api.proto=balsa.dev/examples/follow/balsa/v1 \
//	  --go-grpc_out=. --go-grpc_opt=module=balsa.dev/examples/follow \
//	  --go-grpc_opt=Mbalsa/v1/api.proto=balsa.dev/examples/follow/balsa/v1 balsa/v1/api.proto
//	go mod tidy
//	go run . SERVER CA CERTIFICATE KEY NAMESPACE [LAST]
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand"
	"os"
	"slices"
	"strings"
	"time"

	v1 "balsa.dev/examples/follow/balsa/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

var (
	kinds = []string{"configmaps", "secrets"}
	names = []string{"hello", "world"}
)

// Lists come in messages of half a MiB, and an object may be larger than that.
const maxMessage = 32 << 20

func connect(server, ca, certificate, key string) (*grpc.ClientConn, error) {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New(ca + " holds no certificate")
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "kubernetes"}
	return grpc.NewClient(server,
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
}

// apply puts objects there by server-side apply, whether they were there before or not: many calls in one stream.
func apply(ctx context.Context, objects v1.ObjectServiceClient, namespace string) error {
	stream, err := objects.Pipeline(ctx)
	if err != nil {
		return err
	}
	for id, name := range names {
		patch, err := applied(namespace, name)
		if err != nil {
			return err
		}
		call := &v1.PipelineRequest_Patch{Patch: patch}
		if err := stream.Send(&v1.PipelineRequest{Id: uint64(id), Call: call}); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		// In no order: their numbers say which they answer.
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if answer.Error != nil {
			return errors.New(answer.Error.Reason + ": " + answer.Error.Message)
		}
		fmt.Printf("applied configmaps/%s at %d\n", names[answer.Id], answer.Object.Revision)
	}
}

func applied(namespace, name string) (*v1.PatchRequest, error) {
	wanted, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": name},
		"data":     map[string]string{"from": "go"},
	})
	return &v1.PatchRequest{
		Resource: &v1.Resource{Plural: "configmaps"},
		Key:      &v1.ObjectKey{Namespace: namespace, Name: name},
		Type:     v1.PatchType_PATCH_TYPE_APPLY,
		Patch:    wanted,
		Options:  &v1.WriteOptions{FieldManager: "example"},
		Force:    true,
	}, err
}

type object struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
}

// followed is what is known of one kind, and up to which revision.
type followed struct {
	plural, namespace string
	known, fresh      map[string]object
	revision          uint64
}

func (f *followed) request() *v1.WatchRequest {
	return &v1.WatchRequest{
		Resource:      &v1.Resource{Plural: f.plural},
		Selection:     &v1.Selection{Namespace: f.namespace},
		AfterRevision: f.revision,
	}
}

// take returns the line to print, and the name that it is about.
func (f *followed) take(event *v1.WatchEvent) (line, name string, err error) {
	switch event.Type {
	case v1.WatchEvent_TYPE_SYNCED:
		// Only now is it known what is gone.
		f.known, f.fresh, f.revision = f.fresh, map[string]object{}, event.Revision
		return "SYNCED " + f.plural, "", nil
	case v1.WatchEvent_TYPE_BOOKMARK:
		f.revision = max(f.revision, event.Revision)
		return "", "", nil
	}
	var found object
	if err := json.Unmarshal(event.Object.Json, &found); err != nil {
		return "", "", err
	}
	name = found.Metadata.Name
	switch {
	case f.revision == 0:
		f.fresh[name] = found
	case event.Type == v1.WatchEvent_TYPE_DELETED:
		f.revision = event.Revision
		delete(f.known, name)
	default:
		f.revision = event.Revision
		f.known[name] = found
	}
	kind := strings.TrimPrefix(event.Type.String(), "TYPE_")
	return fmt.Sprintf("%s %s/%s %d", kind, f.plural, name, event.Revision), name, nil
}

// follow reads until the stream ends, and says whether the last name has come.
func follow(ctx context.Context, objects v1.ObjectServiceClient, all []*followed, last string) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := &v1.WatchManyRequest{}
	for _, one := range all {
		one.fresh = map[string]object{}
		request.Watches = append(request.Watches, one.request())
	}
	stream, err := objects.WatchMany(ctx, request)
	if err != nil {
		return false, err
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		one := all[message.Watch]
		if message.Error != nil {
			if message.Error.Reason == "Expired" {
				one.known, one.revision = map[string]object{}, 0
			}
			return false, nil
		}
		for _, event := range message.Events {
			line, name, err := one.take(event)
			if err != nil {
				return false, err
			}
			if line != "" {
				fmt.Println(line)
			}
			if name != "" && name == last && one.plural == kinds[0] {
				return true, nil
			}
		}
	}
}

func revisions(all []*followed) (found []uint64) {
	for _, one := range all {
		found = append(found, one.revision)
	}
	return found
}

func main() {
	if len(os.Args) < 6 {
		log.Fatal("follow SERVER CA CERTIFICATE KEY NAMESPACE [LAST]")
	}
	namespace, last := os.Args[5], ""
	if len(os.Args) > 6 {
		last = os.Args[6]
	}
	connection, err := connect(os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	if err != nil {
		log.Fatal(err)
	}
	objects, ctx := v1.NewObjectServiceClient(connection), context.Background()
	if err := apply(ctx, objects, namespace); err != nil {
		log.Fatal(err)
	}
	var all []*followed
	for _, plural := range kinds {
		all = append(all, &followed{plural: plural, namespace: namespace, known: map[string]object{}})
	}
	for pause := 100 * time.Millisecond; ; {
		before := revisions(all)
		done, err := follow(ctx, objects, all, last)
		if done {
			return
		}
		if err != nil {
			log.Print("broken: ", err)
		}
		// Where nothing came, wait longer each time.
		if slices.Equal(before, revisions(all)) {
			pause = min(2*pause, 10*time.Second)
		} else {
			pause = 100 * time.Millisecond
		}
		time.Sleep(pause/2 + time.Duration(rand.Int63n(int64(pause/2))))
	}
}
