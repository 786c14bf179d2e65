import { computeRopeTable, type RopeTableOptions } from '../../lib/nn/rope-table';

const L31 = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
const YARN = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 2048 };
const LONG = {
  rope_type: 'longrope',
  short_factor: [1, 1.1, 1.25, 2],
  long_factor: [1, 2, 8, 40],
  original_max_position_embeddings: 4096,
  max_position_embeddings: 131072,
};

function table(rotaryDim: number, base: number, scaling: Record<string, unknown> | null, more: Partial<RopeTableOptions> = {}): Float32Array {
  return computeRopeTable({ headDim: rotaryDim, rotaryDim, maxPosition: 2, base, scaling, ...more });
}

/** The frequencies of a table without attention factor: the angles of position 1, small enough to be taken back. */
function frequencies(rotaryDim: number, base: number, scaling: Record<string, unknown> | null, more: Partial<RopeTableOptions> = {}): number[] {
  const t = table(rotaryDim, base, scaling, more);
  const half = rotaryDim / 2;
  return Array.from({ length: half }, (_, i) => Math.atan2(t[rotaryDim + half + i]!, t[rotaryDim + i]!));
}

/** The attention factor: cos of position 0. */
function attentionFactor(rotaryDim: number, scaling: Record<string, unknown>, more: Partial<RopeTableOptions> = {}): number {
  return table(rotaryDim, 10000, scaling, more)[0]!;
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual.length).toBe(expected.length);
  actual.forEach((value, i) => expect(Math.abs(value / expected[i]! - 1)).toBeLessThan(4e-7));
}

describe('computeRopeTable: frequencies as float32 arithmetic gives them', () => {
  it.each([
    ['default', 8, 10000, null, [1, 0.10000000149011612, 0.009999999776482582, 0.0010000000474974513]],
    ['linear', 8, 10000, { type: 'linear', factor: 2.5 }, [0.4000000059604645, 0.03999999910593033, 0.003999999724328518, 0.0004000000189989805]],
    [
      'llama3',
      16,
      500000,
      L31,
      [1, 0.193922758102417, 0.03760603070259094, 0.00729266507551074, 0.0005248460220173001, 3.428102354519069e-5, 6.647870577580761e-6, 1.289173155782919e-6],
    ],
    [
      'yarn',
      16,
      10000,
      YARN,
      [1, 0.3162277638912201, 0.10000000149011612, 0.025693506002426147, 0.00624999962747097, 0.0013834965648129582, 0.0002500000118743628, 7.905694656074047e-5],
    ],
    [
      'yarn without truncation',
      16,
      1000000,
      { ...YARN, original_max_position_embeddings: 32768, truncate: false },
      [1, 0.17782793939113617, 0.03162277862429619, 0.005517270416021347, 0.000607408001087606, 4.4456985051510856e-5, 7.905693564680405e-6, 1.405853367941745e-6],
    ],
    ['longrope, short list', 8, 10000, LONG, [1, 0.09090909361839294, 0.00800000037997961, 0.0005000000237487257]],
  ] as const)('%s', (_name, dim, base, scaling, expected) => {
    expectClose(frequencies(dim, base, scaling), expected);
  });

  it('takes the long list of longrope when the engine admits more than the original context', () => {
    expectClose(frequencies(8, 10000, LONG, { maxPosition: 4097 }), [1, 0.05000000074505806, 0.0012499999720603228, 2.499999936844688e-5]);
    expectClose(frequencies(8, 10000, LONG, { maxPosition: 4096 }), frequencies(8, 10000, LONG));
  });

  it('stretches the base of dynamic for the longest sequence, and not within the original context', () => {
    const scaling = { rope_type: 'dynamic', factor: 2, max_position_embeddings: 2048 };
    expectClose(frequencies(8, 10000, scaling, { maxPosition: 8192 }), [1, 0.052275799214839935, 0.0027327588759362698, 0.00014285712677519768]);
    expectClose(frequencies(8, 10000, scaling, { maxPosition: 2048 }), frequencies(8, 10000, null));
  });

  it('reads `type` as `rope_type`, and both as default when absent', () => {
    const { rope_type: type, ...rest } = L31;
    expect(table(16, 500000, { type, ...rest })).toEqual(table(16, 500000, L31));
    expect(table(16, 500000, { rope_theta: 500000 })).toEqual(table(16, 500000, null));
  });
});

describe('computeRopeTable: attention factor', () => {
  it.each([
    ['yarn', 16, YARN, 1.138629436111989],
    ['yarn, given', 16, { ...YARN, attention_factor: 1.5 }, 1.5],
    ['yarn, equal mscales', 16, { ...YARN, mscale: 0.707, mscale_all_dim: 0.707 }, 1],
    ['yarn, mscale_all_dim 0 means unused', 16, { ...YARN, mscale: 0.707, mscale_all_dim: 0 }, 1.138629436111989],
    ['yarn, mscales', 16, { ...YARN, mscale: 1, mscale_all_dim: 0.5 }, 1.138629436111989 / 1.0693147180559945],
    ['longrope', 8, LONG, 1.1902380714238083],
    ['longrope, given', 8, { ...LONG, attention_factor: 1.25 }, 1.25],
    ['longrope, short_mscale', 8, { ...LONG, short_mscale: 1.125, long_mscale: 1.375 }, 1.125],
    ['llama3', 16, L31, 1],
  ] as const)('%s', (_name, dim, scaling, expected) => {
    expect(attentionFactor(dim, scaling)).toBe(Math.fround(expected));
  });
});

describe('computeRopeTable', () => {
  it('lays out cosines, then sines, of float32 angles', () => {
    const t = computeRopeTable({ headDim: 64, rotaryDim: 16, maxPosition: 5000, base: 10000 });
    expect(t.length).toBe(5000 * 16);
    const inverse = Math.fround(1 / Math.fround(Math.pow(10000, 0.125)));
    const angle = Math.fround(4999 * inverse);
    expect(t[4999 * 16 + 1]).toBe(Math.fround(Math.cos(angle)));
    expect(t[4999 * 16 + 8 + 1]).toBe(Math.fround(Math.sin(angle)));
    expect(Array.from(t.slice(0, 16))).toEqual([...new Array<number>(8).fill(1), ...new Array<number>(8).fill(0)]);
  });

  it.each([
    ['an odd rotary dimension', { rotaryDim: 7 }],
    ['a rotary dimension above the head', { rotaryDim: 18 }],
    ['no positions', { maxPosition: 0 }],
    ['a negative base', { base: -1 }],
    ['a missing factor', { scaling: { rope_type: 'linear' } }],
    ['a factor of 0', { scaling: { rope_type: 'linear', factor: 0 } }],
    ['a factor that is text', { scaling: { rope_type: 'yarn', factor: '4' } }],
    ['crossed frequency factors', { scaling: { ...L31, low_freq_factor: 4, high_freq_factor: 4 } }],
    ['a list that is too short', { scaling: { ...LONG, long_factor: [1, 2] } }],
    ['a list with a negative number', { rotaryDim: 8, scaling: { ...LONG, short_factor: [1, 2, -3, 4] } }],
    ['crossed betas', { scaling: { ...YARN, beta_fast: 1, beta_slow: 32 } }],
    ['a type that is no text', { scaling: { rope_type: 3 } }],
    ['a truncate that is no boolean', { scaling: { ...YARN, truncate: 'yes' } }],
  ])('rejects %s', (_name, change) => {
    const options = { headDim: 16, rotaryDim: 16, maxPosition: 4, base: 10000, ...change };
    expect(() => computeRopeTable(options)).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_MODEL_CONFIG' }));
  });

  it.each([{ rope_type: 'mrope', mrope_section: [1, 1] }, { type: 'default', mrope_section: [2, 3, 3] }, { rope_type: 'spiral' }])('does not support %j', (scaling) => {
    expect(() => table(16, 10000, scaling)).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_UNSUPPORTED' }));
  });
});
