package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// requests are what a server hangs on. Its clients are bare connections, without goroutines of their own.
type requests struct {
	listener net.Listener
	arrived  chan struct{}
}

// serveRequests answers with handle, which calls arrived once it has what it needs and is about to wait.
func serveRequests(handle func(w http.ResponseWriter, r *http.Request, arrived func())) *requests {
	served := &requests{listener: listenLoopback(), arrived: make(chan struct{})}
	arrived := func() { served.arrived <- struct{}{} }
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(w, r, arrived) })
	go (&http.Server{Handler: handler}).Serve(served.listener)
	return served
}

var xs = []byte(strings.Repeat("x", 16<<10))

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// send makes a connection and one request with a body of this length, and returns when its handler waits.
func (served *requests) send(path string, body int) {
	client, err := net.Dial("tcp", served.listener.Addr().String())
	must(err)
	client.(*net.TCPConn).SetLinger(0)
	devices = append(devices, client)
	fmt.Fprintf(client, "POST %s HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n", path, body)
	for sent := 0; sent < body; sent += len(xs) {
		client.Write(xs[:min(len(xs), body-sent)])
	}
	<-served.arrived
}

func (served *requests) fill(bytes int64, path string, body int) {
	growResident(bytes, func() {
		for i := 0; i < 10; i++ {
			served.send(path, body)
		}
	})
}

// stock is locked by an export that never ends.
var stock struct {
	sync.Mutex
	reserved map[string]int
}

// reserveStock has read the order when it waits for the lock.
func reserveStock(w http.ResponseWriter, r *http.Request, arrived func()) {
	order, err := io.ReadAll(r.Body)
	must(err)
	arrived()
	stock.Lock()
	defer stock.Unlock()
	stock.reserved[string(order[:8])]++
}

// reserveUnderLock has handlers behind keep-alive connections that wait for a lock: two goroutines for each request, of which
// net/http's own waits for the client.
func reserveUnderLock(bytes int64) {
	stock.Lock()
	serveRequests(reserveStock).fill(bytes, "/reserve", 16<<10)
}

// priceBackend takes connections and never answers.
var priceBackend net.Listener

func silentBackend() {
	priceBackend = listenLoopback()
	go func() {
		for {
			conn, err := priceBackend.Accept()
			must(err)
			devices = append(devices, conn)
		}
	}()
}

// quotePrice asks the backend without a deadline.
func quotePrice(w http.ResponseWriter, r *http.Request, arrived func()) {
	basket, err := io.ReadAll(r.Body)
	must(err)
	arrived()
	answer, err := http.Post("http://"+priceBackend.Addr().String()+"/price", "text/plain", strings.NewReader(string(basket)))
	if err == nil {
		answer.Body.Close()
	}
}

func quotePrices(bytes int64) {
	silentBackend()
	serveRequests(quotePrice).fill(bytes, "/quote", 16<<10)
}

// renderers is a pool of ten, all of them taken by jobs that hang.
var renderers = make(chan struct{}, 10)

// renderInvoice decodes its request, and then waits for a renderer.
func renderInvoice(w http.ResponseWriter, r *http.Request, arrived func()) {
	invoice, err := io.ReadAll(r.Body)
	must(err)
	lines := strings.Split(string(invoice), "x")
	arrived()
	renderers <- struct{}{}
	fmt.Fprintln(w, len(lines))
	<-renderers
}

func renderInvoices(bytes int64) {
	for i := 0; i < cap(renderers); i++ {
		renderers <- struct{}{}
	}
	serveRequests(renderInvoice).fill(bytes, "/invoice", 4<<10)
}

// warehouse is a database whose queries hang, behind database/sql.
type warehouse struct{}

type warehouseConn struct{ buffer [64 << 10]byte }

type warehouseRows struct{}

var lost = make(chan struct{})

func (warehouse) Open(string) (driver.Conn, error) {
	conn := new(warehouseConn)
	touch(conn.buffer[:])
	return conn, nil
}

func (*warehouseConn) Prepare(string) (driver.Stmt, error) { return nil, driver.ErrSkip }
func (*warehouseConn) Close() error                        { return nil }
func (*warehouseConn) Begin() (driver.Tx, error)           { return nil, driver.ErrSkip }

func (*warehouseConn) QueryContext(_ context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	if query == "SELECT lost" {
		<-lost
	}
	return warehouseRows{}, nil
}

func (warehouseRows) Columns() []string         { return []string{"sku"} }
func (warehouseRows) Close() error              { return nil }
func (warehouseRows) Next([]driver.Value) error { return io.EOF }

func openWarehouse() *sql.DB {
	sql.Register("warehouse", warehouse{})
	db, err := sql.Open("warehouse", "")
	must(err)
	return db
}

// countStock waits for one of ten connections, all of which have a query that hangs.
func countStock(db *sql.DB) func(http.ResponseWriter, *http.Request, func()) {
	return func(w http.ResponseWriter, r *http.Request, arrived func()) {
		skus, err := io.ReadAll(r.Body)
		must(err)
		arrived()
		rows, err := db.QueryContext(context.Background(), "SELECT lost", len(skus))
		if err == nil {
			rows.Close()
		}
	}
}

func countStocks(bytes int64) {
	db := openWarehouse()
	db.SetMaxOpenConns(10)
	serveRequests(countStock(db)).fill(bytes, "/count", 16<<10)
}

var unclosed []*sql.Rows

// listStock forgets to close its rows, and with them their connection.
func listStock(db *sql.DB) {
	rows, err := db.Query("SELECT sku")
	must(err)
	unclosed = append(unclosed, rows)
}

func listStocks(bytes int64) {
	db := openWarehouse()
	growResident(bytes, func() { listStock(db) })
}

var unread []*http.Response

// fetchFeed never closes the body of an answer: net/http keeps two goroutines and their buffers for each.
func fetchFeed(url string) {
	answer, err := http.Get(url)
	must(err)
	unread = append(unread, answer)
}

func fetchFeeds(bytes int64) {
	listener := listenLoopback()
	go func() {
		request := make([]byte, 4096)
		for {
			conn, err := listener.Accept()
			must(err)
			devices = append(devices, conn)
			_, err = conn.Read(request)
			must(err)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n<feed>")
		}
	}()
	url := "http://" + listener.Addr().String() + "/feed"
	growResident(bytes, func() {
		for i := 0; i < 20; i++ {
			fetchFeed(url)
		}
	})
}

type order struct {
	ID    string            `json:"id"`
	Lines []string          `json:"lines"`
	Notes map[string]string `json:"notes"`
}

// acceptOrder has its order decoded into many small objects when the event bus does not take it.
func acceptOrder(bus chan *order) func(http.ResponseWriter, *http.Request, func()) {
	return func(w http.ResponseWriter, r *http.Request, arrived func()) {
		accepted := &order{Notes: map[string]string{}}
		text, err := io.ReadAll(r.Body)
		must(err)
		for i := 0; i < 200; i++ {
			accepted.Lines = append(accepted.Lines, fmt.Sprintf("line %d of %d bytes", i, len(text)))
			accepted.Notes[fmt.Sprint("note-", i)] = accepted.Lines[i]
		}
		_, err = json.Marshal(accepted)
		must(err)
		arrived()
		bus <- accepted
	}
}

func acceptOrders(bytes int64) {
	serveRequests(acceptOrder(make(chan *order))).fill(bytes, "/order", 1<<10)
}

// uploadSizes are read in full before the store, which hangs, is asked: few handlers with much each.
func storeUpload(store chan []byte) func(http.ResponseWriter, *http.Request, func()) {
	return func(w http.ResponseWriter, r *http.Request, arrived func()) {
		body := make([]byte, 4<<20)
		_, err := io.ReadFull(r.Body, body)
		must(err)
		arrived()
		store <- body
	}
}

func storeUploads(bytes int64) {
	served := serveRequests(storeUpload(make(chan []byte)))
	growResident(bytes, func() { served.send("/upload", 4<<20) })
}
