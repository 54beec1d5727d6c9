/** People of a cluster at the coordinator's port: known by a Kubernetes token for UMS, and allowed what they may do with Migrations. */
import type { FastifyInstance, FastifyRequest } from "fastify";
import { UmsError } from "../../errors.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import type { People } from "../../server/peer-server.ts";

/** Of a token that is good here. The API server takes none of those: whoever comes by one can do no more than this port allows. */
const audience = "ums";

/** Changes that are about migrations only, by the path as it was written: no other spelling of a path gets past this. */
const changesMigrations = /^\/(migrate|Podmigrations|plan|migrations|forwards)(?=[/?]|$)/;

/**
 * Reading is `list migrations`, moving is `create migrations`. Everything else, as pairing and what other sites may send, is
 * `create sites`: of a resource that doesn't exist, so that nobody has that right by accident.
 */
function rightFor({ method, url }: Pick<FastifyRequest, "method" | "url">): { verb: string; resource: string } {
  if (method === "GET") return { verb: "list", resource: "migrations" };
  return { verb: "create", resource: changesMigrations.test(url) ? "migrations" : "sites" };
}

export function createPeople(cluster: Cluster, api: FastifyInstance): People {
  return {
    async admit(request) {
      const token = /^Bearer (\S+)$/i.exec(request.headers.authorization ?? "")?.[1];
      const user = token === undefined ? undefined : await cluster.reviewToken(token, { audiences: [audience] });
      if (!user) throw new UmsError("NOT_AUTHORISED", `The caller shows no token of this cluster for the audience ${audience}.`);
      const { verb, resource } = rightFor(request);
      if (!(await cluster.isAllowed(user, { verb, group: "ums.dev", resource })))
        throw new UmsError("NOT_ALLOWED", `${user.username} may not ${verb} ${resource} (ums.dev) in this cluster.`);
    },
    answer: (request, reply) => api.routing(request.raw, reply.raw),
  };
}
