import { unsupported, type ConfigFields } from './config-fields';
import { Fp8LinearMethod, type Fp8Options } from './fp8';
import { Int8LinearMethod } from './int8';
import type { LinearMethod } from './method';
import { PackedIntLinearMethod } from './packed-int';

const STRATEGIES = ['tensor', 'channel', 'group', 'block', 'token', 'tensor_group', 'attn_head'] as const;

/** Arguments of one tensor in a group of compressed-tensors (its QuantizationArgs). */
interface QuantArgs {
  readonly bits: number;
  readonly type: 'int' | 'float';
  readonly symmetric: boolean;
  readonly strategy: (typeof STRATEGIES)[number];
  readonly groupSize: number | null;
  readonly dynamic: boolean;
  readonly ordered: boolean;
  readonly block: Fp8Options['block'];
}

/**
 * How linear layers of one config group are stored and multiplied; null when it leaves weights as they are.
 * @param defaultFormat format of the whole checkpoint
 * @throws KvasirError ERR_KVASIR_UNSUPPORTED for schemes that are not implemented
 */
export function methodOfGroup(group: ConfigFields, defaultFormat: string | null): LinearMethod | null {
  const weights = readArgs(group.object('weights'));
  if (!weights) return null;
  const input = readArgs(group.object('input_activations'));
  const refuse = (why: string) => unsupported(`${group.where}: ${describe(weights)}${input ? ` with ${describe(input)} activations` : ''}: ${why}`);
  const stated = group.value('format') ?? (defaultFormat === 'mixed-precision' ? null : defaultFormat);
  const format = stated ?? inferredFormat(weights, input);
  if (group.object('output_activations')) throw refuse('quantized outputs are not supported');
  const activation = !input ? 'none' : input.dynamic ? 'dynamic' : 'static';
  if (activation === 'static' && !input!.symmetric) throw refuse('static activations are supported with symmetric true only');
  if (input && (input.bits !== 8 || input.type !== weights.type)) throw refuse('activations are supported with 8 bits of the same type as the weights');
  if (format === 'pack-quantized') return packed(weights, input, refuse);
  if (weights.bits !== 8 || !weights.symmetric || !['int-quantized', 'float-quantized', 'naive-quantized'].includes(String(format)))
    throw refuse(`format ${String(format)} is not supported so; supported: pack-quantized (4 and 8 bits), int-quantized and float-quantized (8 bits, symmetric)`);
  if (weights.type === 'int') return new Int8LinearMethod({ groupSize: groupSizeOf(weights, refuse), activation });
  if (weights.strategy !== 'block' && weights.strategy !== 'channel' && weights.strategy !== 'tensor') throw refuse(`strategy ${weights.strategy} is not supported with floats`);
  return new Fp8LinearMethod({ block: weights.block, activation, scaleName: 'weight_scale' });
}

type Refuse = (why: string) => Error;

function packed(weights: QuantArgs, input: QuantArgs | null, refuse: Refuse): LinearMethod {
  const { bits, symmetric, ordered } = weights;
  if (input) throw refuse('packed weights are supported with unquantized activations only');
  if (weights.type !== 'int' || (bits !== 4 && bits !== 8)) throw refuse('packed weights are supported with integers of 4 or 8 bits');
  if (bits === 8 && !symmetric) throw refuse('packed weights of 8 bits are supported with symmetric true only');
  const groupSize = groupSizeOf(weights, refuse);
  return new PackedIntLinearMethod({ bits, symmetric, groupSize, ordered: ordered && groupSize !== -1 });
}

function groupSizeOf({ strategy, groupSize }: QuantArgs, refuse: Refuse): number {
  if (strategy === 'channel' || strategy === 'tensor') return -1;
  if (strategy !== 'group' || groupSize === null) throw refuse(`strategy ${strategy} is not supported`);
  return groupSize;
}

function inferredFormat(weights: QuantArgs, input: QuantArgs | null): string {
  if (weights.type === 'float') return 'float-quantized';
  return input ? 'int-quantized' : 'pack-quantized';
}

function readArgs(fields: ConfigFields | null): QuantArgs | null {
  if (!fields) return null;
  const groupSize = fields.size(['group_size'], null, true);
  const byGroup = groupSize === null ? 'tensor' : groupSize === -1 ? 'channel' : 'group';
  const strategy = fields.choice(['strategy'], STRATEGIES, byGroup);
  return {
    bits: fields.size(['num_bits'], 8),
    type: fields.choice(['type'], ['int', 'float'] as const, 'int'),
    symmetric: fields.boolean('symmetric', true),
    strategy: strategy === 'group' && groupSize === -1 ? 'channel' : strategy,
    groupSize,
    dynamic: fields.choice(['dynamic'], [true, false, 'local'], false) !== false,
    ordered: fields.choice(['actorder'], ['group', 'weight', 'static', 'dynamic', true, false], null) === 'group' || fields.value('actorder') === true,
    block: strategy === 'block' ? readBlock(fields) : null,
  };
}

/** [128, 128] or "128x128". */
function readBlock(fields: ConfigFields): Fp8Options['block'] {
  const value = fields.value('block_structure');
  const sizes = typeof value === 'string' ? value.split('x').map(Number) : value;
  const valid = Array.isArray(sizes) && sizes.length === 2 && sizes.every((size) => Number.isInteger(size) && size >= 1);
  if (!valid) throw fields.wrong(['block_structure'], 'two positive integers', value);
  const [blockN, blockK] = sizes as [number, number];
  return { blockN, blockK };
}

function describe({ bits, type, strategy, symmetric, dynamic }: QuantArgs): string {
  return `${bits}-bit ${type} per ${strategy}${symmetric ? '' : ', asymmetric'}${dynamic ? ', dynamic' : ''}`;
}
