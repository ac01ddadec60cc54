# shellcheck shell=bash
# Apache Kafka for deploy/dev/services, which sources this: one node that is broker and controller,
# on the machine's JDK or in the container. Without a container its jars come by Maven, in the versions
# of deploy/dev/kafka-pom.xml and with the checksums of deploy/dev/kafka.sha256, into the user's
# cache directory. To change the version: edit the pom, run `deploy/dev/services kafka-checksums`.
# shellcheck disable=SC2154 # what services sets

java_major_min=17
# The plugin that reads the pom; it is pinned there where it is called, as Maven wants it.
maven_plugin=org.apache.maven.plugins:maven-dependency-plugin:3.8.1
kafka_pom=$checkout/deploy/dev/kafka-pom.xml
kafka_checksums=$checkout/deploy/dev/kafka.sha256
kafka_user=tidegate
# Room for what tests do, and no more: two of these fit beside a build.
kafka_memory=(-Xms64m -Xmx320m -XX:+UseSerialGC -XX:TieredStopAtLevel=1)

# --- Where its jars come from -----------------------------------------------------------

java_major() { "$1" -version 2>&1 </dev/null | sed -n '1s/.*version "\([0-9]*\).*/\1/p'; }

local_java() {
  local found major
  for found in "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java)"; do
    if [ ! -x "$found" ]; then continue; fi
    major=$(java_major "$found")
    if [ "${major:-0}" -ge "$java_major_min" ]; then
      printf '%s' "$found"
      return 0
    fi
  done
  return 1
}

sha256() { if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }

# Named by what must be in it, so that another version is another directory.
kafka_cache() {
  printf '%s/tidegate/kafka-%s' "${XDG_CACHE_HOME:-${HOME:?}/.cache}" "$(sha256 "$kafka_checksums" | cut -c1-16)"
}

# Exactly the files of the list, each with its checksum.
kafka_jars_are_right() { # DIR
  [ -d "$1" ] && (cd "$1" && sha256 ./*.jar | sed 's# \./# #') 2>/dev/null | cmp -s - "$kafka_checksums"
}

kafka_download() { # DIR
  mvn --quiet --batch-mode --file "$kafka_pom" "$maven_plugin:copy-dependencies" \
    -DincludeScope=runtime -DoutputDirectory="$1" </dev/null >"$state/maven.log" 2>&1 9<&-
}

# As root, what is missing of Java and Maven comes as Debian's packages.
kafka_packages() {
  local wanted=''
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then return 0; fi
  local_java >/dev/null || wanted='openjdk-17-jre-headless '
  if ! kafka_jars_are_right "$cache"; then command -v mvn >/dev/null || wanted="${wanted}maven"; fi
  # shellcheck disable=SC2086 # a list of names
  [ -z "$wanted" ] || install_packages $wanted
}

# Fails with a line that says what is missing. A jar with another checksum ends everything.
kafka_obtain() {
  local cache missing='' fresh=$state/kafka-jars
  if [ "$place" = container ]; then
    java=java
    return 0
  fi
  cache=$(kafka_cache)
  kafka_packages
  java=$(local_java) || missing="java ($java_major_min or later) "
  if [ -z "$missing" ] && kafka_jars_are_right "$cache"; then return 0; fi
  command -v mvn >/dev/null || missing="${missing}mvn "
  if [ -n "$missing" ]; then
    say "Kafka is missing: ${missing% }"
    return 1
  fi
  say "downloading Kafka, once, into $cache"
  rm -rf "$fresh"
  if ! kafka_download "$fresh"; then
    say "Maven cannot download Kafka: $(sed -n '/ERROR/{p;q;}' "$state/maven.log")"
    return 1
  fi
  kafka_jars_are_right "$fresh" || die "what Maven downloaded for Kafka is not what $kafka_checksums lists"
  rm -f "$state/maven.log"
  mkdir -p "$(dirname "$cache")"
  rm -rf "$cache"
  mv "$fresh" "$cache"
}

# Writes the list anew; for who changes the version, and looks at the difference.
kafka_write_checksums() {
  local fresh
  fresh=$(mktemp -d)
  state=$fresh
  kafka_download "$fresh/jars" || die "Maven: $(sed -n '/ERROR/{p;q;}' "$fresh/maven.log")"
  (cd "$fresh/jars" && sha256 ./*.jar | sed 's# \./# #') >"$kafka_checksums"
  rm -rf "$fresh"
}

# --- The broker -------------------------------------------------------------------------

kafka_settings() {
  local address=127.0.0.1
  [ "$place" = local ] || address='' # every address; the engine publishes it on 127.0.0.1 only
  cat <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$kafka_controller_port
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
log.dirs=$home/kafka/data
# Alone, it has nobody to copy to.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=4
# A topic that a test forgot to make is a mistake, not a topic.
auto.create.topics.enable=false
# The first member of a group need not wait for a second one.
group.initial.rebalance.delay.ms=0
# Compaction comes within moments, for who waits for it.
log.cleaner.backoff.ms=500
CONF
  if [ -z "$authority" ]; then
    echo "listeners=PLAINTEXT://$address:$kafka_port,CONTROLLER://127.0.0.1:$kafka_controller_port"
    echo "advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port"
    return 0
  fi
  cat <<CONF
listeners=PLAINTEXT://$address:$kafka_port,SASL_SSL://$address:$kafka_sasl_port,SSL://$address:$kafka_ssl_port,CONTROLLER://127.0.0.1:$kafka_controller_port
# The certificate is for this name.
advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port,SASL_SSL://localhost:$kafka_sasl_port,SSL://localhost:$kafka_ssl_port
ssl.keystore.type=PEM
ssl.keystore.location=$home/kafka/server.pem
# Who shows no certificate of the clients' authority is not let in.
listener.name.ssl.ssl.client.auth=required
listener.name.ssl.ssl.truststore.type=PEM
listener.name.ssl.ssl.truststore.location=$home/kafka/clients.crt
sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER
# It believes every token that has not expired, which is for tests alone. A connection ends with its token.
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler
listener.name.sasl_ssl.oauthbearer.connections.max.reauth.ms=3600000
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_$kafka_user="$password";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
CONF
}

kafka_logging() {
  cat <<'CONF'
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
# It says when it is ready.
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = INFO
CONF
}

kafka_jars() { if [ "$place" = container ]; then printf /opt/kafka/libs; else printf '%s' "$home/kafka/jars"; fi; }

kafka_java() { # CLASS [ARG…]
  as_server "$java" "${kafka_memory[@]}" -cp "$(kafka_jars)/*" \
    "-Dlog4j2.configurationFile=$home/kafka/log4j2.properties" "$@"
}

# One of its users has the password of everything here; it stands in no command line.
kafka_format() {
  as_server rm -rf "$home/kafka/data"
  kafka_settings | write_file "$home/kafka/server.properties"
  {
    printf -- '--cluster-id\n%s\n' "$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c1-22)"
    printf -- '--config\n%s\n' "$home/kafka/server.properties"
    printf -- '--add-scram\nSCRAM-SHA-%s=[name=%s,password=%s]\n' 256 "$kafka_user" "$password"
    printf -- '--add-scram\nSCRAM-SHA-%s=[name=%s,password=%s]\n' 512 "$kafka_user" "$password"
  } | write_file "$home/kafka/format"
  kafka_java kafka.tools.StorageTool format "@$home/kafka/format" </dev/null >"$state/format.log" 2>&1 ||
    die "Kafka cannot format its directory: $(tail -n 3 "$state/format.log")"
  as_server rm "$home/kafka/format"
  rm "$state/format.log"
}

# An authority for clients alone, and a client that it knows: $state/client.crt and client.key.
kafka_client_certificate() {
  as_server sh -euc '
    umask 077
    cd "$1"
    key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    openssl req -x509 $key -days 3650 -subj "/CN=tidegate-dev-clients" -keyout clients.key -out clients.crt
    openssl req $key -subj "/CN=tidegate" -keyout client.key -out client.csr
    openssl x509 -req -in client.csr -CA clients.crt -CAkey clients.key -CAcreateserial -days 3650 -out client.crt
    rm -f clients.key clients.srl client.csr
  ' sh "$home/kafka" </dev/null >"$state/openssl.log" 2>&1 || die "openssl failed: $(tail -n 3 "$state/openssl.log")"
  rm "$state/openssl.log"
  (umask 077 && as_server cat "$home/kafka/client.key" >"$state/client.key")
  as_server cat "$home/kafka/client.crt" >"$state/client.crt"
}

kafka_create() {
  local attempt
  as_server mkdir -m 700 "$home/kafka"
  # Links where that can be: the cache may lie where the servers' account cannot read.
  if [ "$place" = local ]; then
    mkdir -m 755 "$home/kafka/jars"
    cp -l "$(kafka_cache)"/*.jar "$home/kafka/jars/" 2>/dev/null ||
      cp "$(kafka_cache)"/*.jar "$home/kafka/jars/"
  fi
  kafka_logging | write_file "$home/kafka/log4j2.properties"
  if [ -n "$authority" ]; then
    as_server cat "$home/server.key" "$home/server.crt" | write_file "$home/kafka/server.pem"
    kafka_client_certificate
  fi
  # In a container the two that are published were chosen with it.
  for ((attempt = 1; attempt <= port_attempts_max; attempt++)); do
    if [ "$place" = local ]; then
      kafka_port=$(free_port)
      kafka_sasl_port=$(free_port)
      kafka_ssl_port=$(free_port)
    fi
    kafka_controller_port=$(free_port)
    save
    kafka_format
    if kafka_start; then
      kafka_complete=yes
      save
      return 0
    fi
    kafka_log | grep -q 'in use' || break
  done
  die "Kafka does not start: $(log_tail kafka/broker)"
}

kafka_log() { as_server cat "$home/kafka/broker.log" 2>/dev/null; }

# One that an older form of this script made has no listener for certificates, or takes no tokens.
kafka_intact() {
  [ "$kafka_complete" = yes ] && [ -n "$kafka_ssl_port" ] &&
    as_server test -e "$home/kafka/data/meta.properties" 2>/dev/null &&
    { [ -z "$authority" ] || as_server grep -q OAUTHBEARER "$home/kafka/server.properties"; }
}

kafka_runs() { live_pid kafka/broker.pid >/dev/null; }

# A session of its own, so that an interrupt at the terminal reaches only the command before it.
kafka_start() {
  local deadline=$((SECONDS + ready_seconds_max))
  # shellcheck disable=SC2016 # for the inner shell
  as_server sh -c '
    log=$1 pid=$2
    shift 2
    if command -v setsid >/dev/null; then set -- setsid "$@"; fi
    "$@" </dev/null >"$log" 2>&1 &
    echo $! >"$pid"
  ' sh "$home/kafka/broker.log" "$home/kafka/broker.pid" "$java" "${kafka_memory[@]}" -cp "$(kafka_jars)/*" \
    "-Dlog4j2.configurationFile=$home/kafka/log4j2.properties" kafka.Kafka "$home/kafka/server.properties" \
    </dev/null >/dev/null 2>&1
  while [ "$SECONDS" -lt "$deadline" ]; do
    if kafka_log | grep -q 'Kafka Server started'; then return 0; fi
    sleep 0.1
    kafka_runs || return 1
  done
  return 1
}

# Ends it by a signal, and waits until it is gone.
kafka_end() { # KILL | TERM
  local pid deadline=$((SECONDS + ready_seconds_max))
  pid=$(live_pid kafka/broker.pid) || return 0
  as_server sh -c 'kill -s "$1" "$2"' sh "$1" "$pid" || true
  while kafka_runs; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

kafka_remove() {
  kafka_complete=no
  save
  as_server test -d "$home/kafka" || return 0
  kafka_end KILL || die "Kafka does not stop: $(log_tail kafka/broker)"
  as_server rm -rf "$home/kafka/data"
  rm -rf "$home/kafka" 2>/dev/null || as_server rm -rf "$home/kafka"
}

# The tools are told the address by the option that all of them have, unless the caller names another.
kafka_tool() { # NAME [ARG…]
  local class=$1
  shift
  case $class in
    topics) class=org.apache.kafka.tools.TopicCommand ;;
    groups) class=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
    produce) class=org.apache.kafka.tools.ConsoleProducer ;;
    consume) class=org.apache.kafka.tools.consumer.ConsoleConsumer ;;
    transactions) class=org.apache.kafka.tools.TransactionsCommand ;;
    *.*) ;;
    *) die "there is no tool '$class': expected topics, groups, produce, consume, transactions or a class" ;;
  esac
  [[ " $* " == *' --bootstrap-server '* ]] || set -- --bootstrap-server "127.0.0.1:$kafka_port" "$@"
  kafka_java "$class" "$@"
}

kafka_env() {
  printf "export TIDEGATE_TEST_KAFKA='127.0.0.1:%s'\n" "$kafka_port"
  # TLS and SCRAM-SHA-256, SCRAM-SHA-512 or PLAIN; empty where there is no openssl to make a certificate.
  printf "export TIDEGATE_TEST_KAFKA_SASL='%s'\n" "${authority:+localhost:$kafka_sasl_port}"
  # TLS with a certificate of the client's; the same.
  printf "export TIDEGATE_TEST_KAFKA_SSL='%s'\n" "${authority:+localhost:$kafka_ssl_port}"
  printf "export TIDEGATE_TEST_KAFKA_CERTIFICATE='%s'\n" "${authority:+$state/client.crt}"
  printf "export TIDEGATE_TEST_KAFKA_KEY='%s'\n" "${authority:+$state/client.key}"
  printf "export TIDEGATE_TEST_KAFKA_USER='%s'\n" "$kafka_user"
  printf "export TIDEGATE_TEST_KAFKA_PASSWORD='%s'\n" "$password"
  printf "export TIDEGATE_TEST_KAFKA_CA='%s'\n" "$authority"
  # To be called as `"$TIDEGATE_TEST_KAFKA_CTL" kafka crash`, `… kafka start`, `… kafka tool topics --list`.
  printf "export TIDEGATE_TEST_KAFKA_CTL='%s'\n" "$self"
}
