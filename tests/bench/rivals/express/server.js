// Express 5 as guides to fast APIs write it: compression, ETags by Express itself, hot reads in Redis by ioredis.
// Environment: PORT, REDIS_URL, DATA (the file that the harness writes), WORKERS (0: one process without node:cluster).
import cluster from 'node:cluster';
import { readFileSync } from 'node:fs';
import express from 'express';
import compression from 'compression';
import Redis from 'ioredis';

const { PORT, REDIS_URL, DATA, WORKERS = '0' } = process.env;
const POST_LIFE_SECONDS = 60;

function serve() {
  const { health, posts, page } = JSON.parse(readFileSync(DATA, 'utf8'));
  const byId = new Map(posts.map((post) => [String(post.id), post]));
  const redis = new Redis(REDIS_URL, { enableAutoPipelining: true, maxRetriesPerRequest: 1 });
  redis.on('error', () => {}); // Without Redis, answers come from memory.

  const app = express();
  app.disable('x-powered-by');
  app.set('etag', 'weak');
  app.use(compression());

  app.get('/health', (request, response) => {
    response.json({ ...health, cache: redis.status === 'ready' ? 'ok' : 'unreachable' });
  });

  app.get('/posts/:id', async (request, response) => {
    const { id } = request.params;
    const cached = await redis.get(`post:${id}`).catch(() => null);
    if (cached) {
      response.type('json').send(cached);
      return;
    }
    const post = byId.get(id);
    if (!post) {
      response.status(404).json({ title: 'Not Found', status: 404 });
      return;
    }
    const text = JSON.stringify(post);
    await redis.set(`post:${id}`, text, 'EX', POST_LIFE_SECONDS).catch(() => null);
    response.type('json').send(text);
  });

  app.get('/public/posts', (request, response) => {
    response.set('Cache-Control', 'public, max-age=60, stale-while-revalidate=300');
    response.json(page);
  });

  app.listen(Number(PORT), '127.0.0.1');
}

if (cluster.isPrimary && Number(WORKERS) > 0) {
  for (let worker = 0; worker < Number(WORKERS); worker += 1) cluster.fork();
} else {
  serve();
}
