import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { ROOT } from './source-tree';

const { closingLine } = require('../../scripts/test.js') as { closingLine(counts: { passed: number; failed: number; skipped: number }): string };

function node(args: string[], env: NodeJS.ProcessEnv): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, args, { cwd: ROOT, encoding: 'utf8', env: { ...process.env, ...env } });
}

describe('the scripts', () => {
  test.each([
    [{ passed: 3, failed: 0, skipped: 0 }, '3 passed, 0 failed'],
    [{ passed: 3, failed: 1, skipped: 2 }, '3 passed, 1 failed, 2 skipped'],
  ])('%j closes with "%s"', (counts, line) => {
    expect(closingLine(counts)).toBe(line);
  });

  test('without tools, one sentence says what is missing and what to install', () => {
    const empty = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-path-'));
    try {
      const result = node(['-p', "require('./scripts/toolchain.js').findToolchain().problem"], { PATH: empty, CXX: '' });
      expect(result.stderr).toBe('');
      expect(result.stdout).toMatch(/^Kvasir's native addon cannot be built: no C\+\+20 compiler was found, .+ and CMake was not found; .*(install|run).*cmake.*\.\n$/i);
    } finally {
      fs.rmSync(empty, { recursive: true });
    }
  });

  test('a wrong KVASIR_BUILD is one line and 1', () => {
    const result = node(['scripts/build-ts.js'], { KVASIR_BUILD: 'sometimes' });
    expect(result.status).toBe(1);
    expect(result.stderr).toBe('error: KVASIR_BUILD must be auto, force or never; received "sometimes".\n');
  });

  test('wrong CUDA architectures are one line and 1', () => {
    const result = node(['scripts/build-cuda.js', '--archs', 'hopper'], {});
    expect(result).toMatchObject({ status: 1, stderr: 'error: CUDA architectures are a list like "80-real,90a-real"; received "hopper".\n' });
  });

  test('names architectures as nvcc does', () => {
    const { codeOptions } = require('../../scripts/build-cuda.js') as { codeOptions(arch: string): string[] };
    expect(codeOptions('90a-real')).toEqual(['-gencode=arch=compute_90a,code=sm_90a']);
    expect(codeOptions('80-virtual')).toEqual(['-gencode=arch=compute_80,code=compute_80']);
    expect(codeOptions('89')).toEqual(['-gencode=arch=compute_89,code=sm_89', '-gencode=arch=compute_89,code=compute_89']);
  });

  test('without nvcc, the CUDA build says so', () => {
    const result = node(['-p', "require('./scripts/toolchain.js').findCuda().problem"], { PATH: os.tmpdir() });
    expect(result.stdout).toBe('there is no nvcc on PATH (it comes with the CUDA toolkit)\n');
  });

  test.each([
    ['llama-3.2-1b', 1_235_814_400],
    ['llama-3-8b', 8_030_261_248 - 128_256 * 4096],
  ])('a decode step of %s reads every parameter, but no untied embedding table', (name, parameters) => {
    const { decodeStepBytes } = require('../../scripts/bench-gpu.js') as { decodeStepBytes(config: object, batch: number, context: number): number };
    const config = JSON.parse(fs.readFileSync(path.join(ROOT, `examples/configs/${name}.json`), 'utf8')) as { num_hidden_layers: number; head_dim: number };
    expect(decodeStepBytes(config, 0, 0)).toBe(2 * parameters);
    const kvBytesPerToken = 2 * 2 * 8 * config.head_dim * config.num_hidden_layers;
    expect(decodeStepBytes(config, 3, 100) - decodeStepBytes(config, 0, 0)).toBe(300 * kvBytesPerToken);
  });

  describe('sanitize-gpu.js', () => {
    const { verdict } = require('../../scripts/sanitize-gpu.js') as { verdict(output: string, code: number | null): string | null };

    test.each([
      ['========= ERROR SUMMARY: 0 errors\n', 0, null],
      ['x\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n', 0, null],
      ['========= ERROR SUMMARY: 0 errors\n', null, /ran out of time/],
      ['========= ERROR SUMMARY: 0 errors\n', 1, /exit code 1/],
      ['========= ERROR SUMMARY: 12 errors\n', 86, /found errors: 12 errors/],
      ['========= ERROR SUMMARY: 12 errors\n', 0, /found errors: 12 errors/],
      ['========= RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)\n', 0, /found errors: 3 hazards/],
      ['the program ran\n', 0, /no summary/],
    ])('%j with exit code %s: %s', (output, code, expected) => {
      if (expected === null) expect(verdict(output, code)).toBeNull();
      else expect(verdict(output, code)).toMatch(expected);
    });

    test('a tool that does not exist is one line and 1', () => {
      const result = node(['scripts/sanitize-gpu.js', '--tools', 'leakcheck'], {});
      expect(result).toMatchObject({ status: 1, stderr: 'error: --tools must be a list of memcheck, racecheck, initcheck, synccheck; received "leakcheck".\n' });
    });
  });

  test('the install hook does nothing in a clone', () => {
    const result = node(['scripts/install.js'], { KVASIR_BUILD: 'force' });
    expect(result).toMatchObject({ status: 0, stdout: '', stderr: '' });
  });

  test('binding.gyp has one target, without sources of its own', () => {
    const text = fs.readFileSync(path.join(ROOT, 'binding.gyp'), 'utf8');
    expect(text.match(/'target_name'/g)).toHaveLength(1);
    expect(text).toContain("'type': 'none'");
    expect(text).not.toContain("'sources'");
  });
});
