// A real issuer of tokens for tests: oidc-provider over TLS on loopback, with its own sign-in pages.
// node issuer.mjs PORT CERT KEY PROVIDER_MODULE
import { createServer } from 'node:https';
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';

const [port, cert, key, module] = process.argv.slice(2);
const { default: Provider } = await import(module);
const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const jwk = { ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig', kid: 'one' };

const provider = new Provider(`https://localhost:${port}`, {
  jwks: { keys: [jwk] },
  cookies: { keys: ['only for tests'] },
  clientDefaults: { id_token_signed_response_alg: 'ES256' },
  scopes: ['openid', 'offline_access', 'tools'],
  features: {
    devInteractions: { enabled: true },
    registration: { enabled: true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, resource) => ({
        scope: 'tools',
        audience: resource,
        accessTokenTTL: 600,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  extraTokenClaims: () => ({ roles: ['operator'], tenant: 'acme' }),
});

createServer({ cert: readFileSync(cert), key: readFileSync(key) }, provider.callback()).listen(
  Number(port), '127.0.0.1', () => console.log('listening'),
);
