'use strict';
// Generates the same again and again, by one engine after another, and prints how often and how many answers differed from the first:
//   node rank-repeat.js '{"engines": 20, "runs": 10, "model": FOLDER, "tensorParallelSize": 2, ..}'
const path = require('node:path');

const { LLM } = require(path.resolve(__dirname, '../../../dist/index.js'));

async function main() {
  const { engines, runs, ...options } = JSON.parse(process.argv[2]);
  const prompts = Array.from({ length: 6 }, (_, i) => ({ promptTokenIds: Array.from({ length: 3 + 20 * i }, (_, k) => 5 + ((k * 7 + i) % 300)) }));
  let [first, count, different] = [null, 0, 0];
  for (let engine = 0; engine < engines; engine += 1) {
    const llm = await LLM.create(options);
    for (let run = 0; run < runs; run += 1) {
      const outputs = await llm.generate(prompts, { temperature: 0, maxTokens: 20, ignoreEos: true, detokenize: false });
      const tokens = JSON.stringify(outputs.map((output) => output.outputs[0].tokenIds));
      first ??= tokens;
      count += 1;
      if (tokens !== first) different += 1;
    }
    await llm.close();
  }
  process.stdout.write(`${JSON.stringify({ runs: count, different })}\n`);
}

main().catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
});
