// Go's net/http with go-redis, gzip by klauspost/compress and an ETag of the body.
// Environment: PORT, REDIS_URL, DATA (the file that the harness writes).
package main

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzhttp"
	"github.com/redis/go-redis/v9"
)

const postLife = 60 * time.Second

type author struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

type post struct {
	ID        int64    `json:"id"`
	Title     string   `json:"title"`
	Body      string   `json:"body,omitempty"`
	Author    *author  `json:"author,omitempty"`
	Tags      []string `json:"tags,omitzero"`
	CreatedAt string   `json:"createdAt"`
	UpdatedAt string   `json:"updatedAt"`
	Version   int64    `json:"version"`
}

type page struct {
	Items []post `json:"items"`
	Next  string `json:"next,omitempty"`
}

type health struct {
	Status   string `json:"status"`
	Version  string `json:"version"`
	Database string `json:"database"`
	Cache    string `json:"cache"`
}

type data struct {
	Health health `json:"health"`
	Posts  []post `json:"posts"`
	Page   page   `json:"page"`
}

func main() {
	text, err := os.ReadFile(os.Getenv("DATA"))
	if err != nil {
		log.Fatal(err)
	}
	var all data
	if err := json.Unmarshal(text, &all); err != nil {
		log.Fatal(err)
	}
	byID := make(map[int64]*post, len(all.Posts))
	for index := range all.Posts {
		byID[all.Posts[index].ID] = &all.Posts[index]
	}
	options, err := redis.ParseURL(os.Getenv("REDIS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	cache := redis.NewClient(options)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, r, all.Health)
	})
	mux.HandleFunc("GET /posts/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
		if err != nil {
			http.Error(w, "the id is not a number", http.StatusBadRequest)
			return
		}
		key := "post:" + strconv.FormatInt(id, 10)
		// Without Redis, answers come from memory.
		if cached, err := cache.Get(r.Context(), key).Bytes(); err == nil {
			answer(w, r, cached)
			return
		}
		found, ok := byID[id]
		if !ok {
			http.NotFound(w, r)
			return
		}
		body, err := json.Marshal(found)
		if err != nil {
			http.Error(w, "cannot be written", http.StatusInternalServerError)
			return
		}
		_ = cache.Set(r.Context(), key, body, postLife).Err()
		answer(w, r, body)
	})
	mux.HandleFunc("GET /public/posts", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=60, stale-while-revalidate=300")
		answerJSON(w, r, all.Page)
	})

	server := &http.Server{
		Addr:              "127.0.0.1:" + os.Getenv("PORT"),
		Handler:           gzhttp.GzipHandler(mux),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       75 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}

func answerJSON(w http.ResponseWriter, r *http.Request, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, "cannot be written", http.StatusInternalServerError)
		return
	}
	answer(w, r, body)
}

// answer sends JSON with its weak ETag, or 304 to a client that has it.
func answer(w http.ResponseWriter, r *http.Request, body []byte) {
	hash := fnv.New64a()
	_, _ = hash.Write(body)
	tag := fmt.Sprintf(`W/"%x-%x"`, len(body), hash.Sum64())
	w.Header().Set("ETag", tag)
	if known := r.Header.Get("If-None-Match"); known != "" && (known == "*" || strings.Contains(known, tag)) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}
