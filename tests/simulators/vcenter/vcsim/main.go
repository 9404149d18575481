// SPDX-License-Identifier: GPL-3.0-or-later

// Command vcsim is the vCenter that the tests of cda.coldmig import into: the simulator of govmomi, with the parts replaced
// that a migration depends on and that the simulator leaves out. These are the HttpNfcLease (it is kept alive by progress only,
// removes the VM when it ends badly, blocks the VM meanwhile, knows the manifest), the receiving end of its device URLs (it
// judges the request as a host does and keeps the bytes), and the guest OS descriptors.
//
// usage: vcsim CONFIG.json
//
// It prints one line of JSON on stdout when it serves, and ends on SIGTERM or when its standard input is closed.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
)

// Config is the file named on the command line.
type Config struct {
	Listen        string    `json:"listen"` // host:port; port 0 picks one
	Certificate   string    `json:"certificate"`
	Key           string    `json:"key"`
	Username      string    `json:"username"`
	Password      string    `json:"password"`
	ControlToken  string    `json:"control_token"`
	Store         string    `json:"store"` // received disks: STORE/<lease>/<target id>
	Inventory     Inventory `json:"inventory"`
	LeaseTimeout  float64   `json:"lease_timeout_seconds"` // without progress
	LeaseReady    float64   `json:"lease_ready_seconds"`   // "initializing" for so long
	DeviceURLHost string    `json:"device_url_host"`       // "public" (as vCenter answers) or "*" (as a host answers)
}

func readConfig(path string) (*Config, error) {
	config := &Config{
		Listen: "127.0.0.1:0", LeaseTimeout: 300, LeaseReady: 0.3, DeviceURLHost: "public",
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, config); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if config.Username == "" || config.Password == "" || config.ControlToken == "" || config.Store == "" {
		return nil, fmt.Errorf("%s: username, password, control_token and store are needed", path)
	}
	return config, nil
}

func run(path string) error {
	config, err := readConfig(path)
	if err != nil {
		return err
	}
	certificate, err := tls.LoadX509KeyPair(config.Certificate, config.Key)
	if err != nil {
		return err
	}

	model := simulator.VPX()
	model.Machine, model.Host, model.Portgroup = 0, 0, 1
	model.ClusterHost = len(config.Inventory.Hosts)
	model.ServiceContent.About = about()
	defer model.Remove()
	if err := model.Create(); err != nil {
		return err
	}

	ctx := context.Background()
	client, err := vim25.NewClient(ctx, model.Service)
	if err != nil {
		return err
	}
	if err := config.Inventory.apply(ctx, client); err != nil {
		return fmt.Errorf("inventory: %w", err)
	}

	// The simulator's own server only provides the handlers; nothing listens there.
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(config.Username, config.Password)}
	model.Service.RegisterEndpoints = false
	model.Service.RegisterSDK(policies())
	inner := model.Service.NewServer()
	_ = inner.Listener.Close()

	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return err
	}
	sim := newSim(config, client, model.Service.ServeMux, listener.Addr().String())
	installGuests(client)

	server := &http.Server{
		Handler:           sim.handler(),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 only
		ReadHeaderTimeout: time.Minute,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(listener, "", "") }()

	ready, _ := json.Marshal(map[string]string{"url": "https://" + listener.Addr().String()})
	fmt.Println(string(ready))

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	orphaned := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(orphaned)
	}()
	select {
	case err := <-failed:
		return err
	case <-stop:
	case <-orphaned:
	}
	_ = server.Close()
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: vcsim CONFIG.json")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatalf("vcsim: %s", err)
	}
}
