'use strict';
// Every rank of a tensor-parallel group runs this:
//   node rank-goldens.js '{"tensorParallelSize": 2, "models": [{"name", "model", "prompts": [[ids], ..], "maxTokens"}], ..}'
// Rank 0 prints one JSON line per model with what was generated, the logprobs of the prompts, and the bytes that it read.
const path = require('node:path');

const { LLM, serveRank } = require(path.resolve(__dirname, '../../../dist/index.js'));
const { rankFromEnvironment } = require(path.resolve(__dirname, '../../../dist/distributed/launch-environment.js'));

async function generate({ name, model, prompts, maxTokens }, options) {
  const llm = await LLM.create({ model, ...options });
  try {
    const inputs = prompts.map((promptTokenIds) => ({ promptTokenIds }));
    const outputs = await llm.generate(inputs, { temperature: 0, maxTokens, ignoreEos: true, logprobs: 0, promptLogprobs: 0 });
    const logprobs = outputs.map(({ promptLogprobs }) => promptLogprobs.map((entries) => (entries === null ? null : entries[0].logprob)));
    process.stdout.write(`${JSON.stringify({ name, tokenIds: outputs.map((output) => output.outputs[0].tokenIds), logprobs })}\n`);
  } finally {
    await llm.close();
  }
}

async function main() {
  const { models, ...options } = JSON.parse(process.argv[2]);
  const rank = rankFromEnvironment(process.env)?.rank ?? 0;
  for (const model of models) {
    if (rank === 0) await generate(model, options);
    else await serveRank({ model: model.model, ...options });
  }
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
