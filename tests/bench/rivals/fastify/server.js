// Fastify 5 with its own plugins for compression and ETags, response schemas as its guide advises, and ioredis.
// Environment: PORT, REDIS_URL, DATA (the file that the harness writes).
import { readFileSync } from 'node:fs';
import Fastify from 'fastify';
import compress from '@fastify/compress';
import etag from '@fastify/etag';
import Redis from 'ioredis';

const { PORT, REDIS_URL, DATA } = process.env;
const POST_LIFE_SECONDS = 60;

const { health, posts, page } = JSON.parse(readFileSync(DATA, 'utf8'));
const byId = new Map(posts.map((post) => [String(post.id), post]));
const redis = new Redis(REDIS_URL, { enableAutoPipelining: true, maxRetriesPerRequest: 1 });
redis.on('error', () => {}); // Without Redis, answers come from memory.

// Of the values there are, so that the serializer knows every field that Plimsoll's answer has.
function schemaOf(value) {
  if (Array.isArray(value)) return { type: 'array', items: value.length > 0 ? schemaOf(value[0]) : {} };
  if (value !== null && typeof value === 'object') {
    const properties = Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, schemaOf(inner)]));
    return { type: 'object', properties };
  }
  return { type: Number.isInteger(value) ? 'integer' : typeof value };
}

const app = Fastify({ logger: false });
await app.register(etag);
await app.register(compress);

app.get('/health', { schema: { response: { 200: schemaOf(health) } } }, async () => ({
  ...health,
  cache: redis.status === 'ready' ? 'ok' : 'unreachable',
}));

app.get('/posts/:id', async (request, reply) => {
  const { id } = request.params;
  reply.type('application/json; charset=utf-8');
  const cached = await redis.get(`post:${id}`).catch(() => null);
  if (cached) return cached;
  const post = byId.get(id);
  if (!post) {
    reply.code(404);
    return JSON.stringify({ title: 'Not Found', status: 404 });
  }
  const text = JSON.stringify(post);
  await redis.set(`post:${id}`, text, 'EX', POST_LIFE_SECONDS).catch(() => null);
  return text;
});

app.get('/public/posts', { schema: { response: { 200: schemaOf(page) } } }, async (request, reply) => {
  reply.header('cache-control', 'public, max-age=60, stale-while-revalidate=300');
  return page;
});

await app.listen({ port: Number(PORT), host: '127.0.0.1' });
