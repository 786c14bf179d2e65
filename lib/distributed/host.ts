import { lookup } from 'node:dns/promises';
import { KvasirError } from '../utils/errors';

/** Whether a host's name or address says by itself that only processes of this machine reach it. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host) || /^(0{0,4}:){2,7}0{0,3}1$/.test(host);
}

/**
 * The address to listen on or to connect to. Whoever reaches it takes part in the group when the secret is known, so an address that
 * other machines reach needs a secret, and one that stands for every interface is refused.
 * @param attempt a name may have several addresses, of which rank 0 listens on one: each attempt gets the next
 * @throws KvasirError ERR_KVASIR_LAUNCH; what the resolver throws for an unknown name
 */
export async function resolveHost(host: string, secret: string, attempt = 0): Promise<string> {
  const found = await lookup(host, { all: true });
  const { address } = found[attempt % found.length]!;
  if (/^0\.0\.0\.0$|^[0:]+$/.test(address)) {
    throw new KvasirError('ERR_KVASIR_LAUNCH', `expected the address of one interface for the ranks to meet at, received ${host}, which stands for all of them`);
  }
  if (secret === '' && !isLoopback(address)) {
    throw new KvasirError('ERR_KVASIR_LAUNCH', `ranks that meet at ${host}, which other machines can reach, need a shared secret; received none`);
  }
  return address;
}
