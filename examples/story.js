'use strict';
// Streams a story from the bundled example model: `npm start`, or `node examples/story.js "Once there was a fox"`.

const path = require('node:path');
const { LLM } = require('kvasir');

async function main() {
  const prompt = process.argv[2] ?? 'Once upon a time';
  const llm = await LLM.create({ model: path.join(__dirname, 'models', 'kvasir-tales-5m') });
  try {
    process.stdout.write(prompt);
    let tokens = 0;
    let start = 0;
    let end = 0;
    for await (const output of llm.stream(prompt, { ...llm.getDefaultSamplingParams(), seed: 7, outputKind: 'delta' })) {
      const [completion] = output.outputs;
      end = performance.now();
      if (start === 0) start = end; // the clock starts with the first token: what comes before is the prompt
      tokens += completion.tokenIds.length;
      process.stdout.write(completion.text);
    }
    process.stdout.write('\n');
    const rate = (tokens - 1) / ((end - start) / 1000);
    console.error(`\n${tokens} tokens, ${rate.toFixed(0)} tokens/s`);
  } finally {
    await llm.close();
  }
}

main().catch((error) => {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
});
