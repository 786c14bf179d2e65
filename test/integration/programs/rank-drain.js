'use strict';
// Generates with a group of ranks until SIGTERM, as a service does: what was begun is finished, then the engine is closed. Rank 0 prints
// "serving" when the first requests have begun, and at the end as JSON how many there were and how they ended.
//   node rank-drain.js '{"model": FOLDER, "tensorParallelSize": 2, ..}'
const path = require('node:path');

const { LLM } = require(path.resolve(__dirname, '../../../dist/index.js'));

const TOKENS = 40;

async function main() {
  const llm = await LLM.create(JSON.parse(process.argv[2]));
  let stopping = false;
  process.on('SIGTERM', () => (stopping = true));
  const ends = { done: 0, other: 0 };
  const request = async (i) => {
    const [output] = await llm.generate([{ promptTokenIds: [1, 2 + i] }], { temperature: 0, maxTokens: TOKENS, ignoreEos: true });
    ends[output.outputs[0].tokenIds.length === TOKENS ? 'done' : 'other'] += 1;
  };
  for (let round = 0; !stopping; round += 1) {
    const running = [0, 1, 2, 3].map(request);
    if (round === 0) process.stdout.write('serving\n');
    await Promise.all(running);
  }
  await llm.close();
  process.stdout.write(`${JSON.stringify(ends)}\n`);
}

main().catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
});
