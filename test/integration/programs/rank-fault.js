'use strict';
// Generates with a group of ranks of which one fails (faulty-rank.js), and prints as JSON how the requests ended (rank 0); exits with 1 if any failed:
//   node rank-fault.js '{"model": FOLDER, "tensorParallelSize": 2, ..}'
const path = require('node:path');

const { LLM } = require(path.resolve(__dirname, '../../../dist/index.js'));
const { rankFromEnvironment } = require(path.resolve(__dirname, '../../../dist/distributed/launch-environment.js'));
const faultyRank = path.join(__dirname, 'faulty-rank.js');

const endOf = (promise) => promise.then(() => 'done', (error) => error.code ?? String(error));

async function main() {
  require(faultyRank).register();
  const llm = await LLM.create({ ...JSON.parse(process.argv[2]), workerImports: [faultyRank] });
  const request = (i) => endOf(llm.generate({ promptTokenIds: Array.from({ length: 20 + i }, (_, k) => 5 + ((k * 7 + i) % 300)) }, { temperature: 0, maxTokens: 100, ignoreEos: true }));
  const requests = await Promise.all([0, 1, 2, 3].map(request));
  const later = await request(4);
  const close = await endOf(llm.close());
  process.stdout.write(`${JSON.stringify({ requests, later, close })}\n`);
  process.exitCode = [...requests, later].every((end) => end === 'done') ? 0 : 1;
}

main().catch((error) => {
  const isRank0 = (rankFromEnvironment(process.env)?.rank ?? 0) === 0;
  if (isRank0) process.stdout.write(`${JSON.stringify({ create: error.code ?? String(error) })}\n`);
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
});
