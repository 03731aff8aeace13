/* The two parts of the console benchmark that must cost as little as can be.
 *
 *   line source DIR N BYTES_PER_S SECONDS   N serial ports that speak
 *   line floor  DIR N PORT                  the least that a console server can do
 *
 * A port is the far end of a pty; DIR/con0 … lead to the near ends. "ready" on
 * standard output, "go" on standard input. The source then says a record of 64
 * bytes whenever one is due, and drops what the near end has no room for, as a
 * UART does. After SECONDS it prints "overrun K" and, per port, how many
 * records went out; it goes on answering keys. Both end with their input.
 *
 * A record: "@cccc ssssssss tttttttttttttttt k", padding, CR LF: console,
 * number, CLOCK_MONOTONIC in ns when it was said, and what it is: a record of
 * the stream (d) or the answer to a key (e). All numbers are hexadecimal.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { RECORD = 64, MOST_CONSOLES = 1024, BUFFER = 1 << 16 };
static const uint64_t SECOND = 1000000000;

static void fail(const char *what) {
    fprintf(stderr, "line: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *room(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory) fail("calloc");
    return memory;
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void watch(int epoll, int fd, uint64_t key) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = key};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

static void say(const char *word) {
    puts(word);
    fflush(stdout);
}

/* Whether our input ended: who started us wants us to end. */
static int input_ended(void) {
    char byte;
    struct pollfd in = {.fd = 0, .events = POLLIN};
    return poll(&in, 1, 0) > 0 && read(0, &byte, 1) <= 0;
}

static void path_of(char path[512], const char *dir, int console) {
    snprintf(path, 512, "%s/con%d", dir, console);
}

/* ---- the source ------------------------------------------------------- */

struct port {
    int fd;
    uint32_t sent;          /* numbers of the stream's records */
    uint64_t due;           /* records that should have been said by now */
    char rest[RECORD];      /* of a record that went out in part */
    int rest_at, rest_len;
    int keys;               /* that are not answered yet */
};

static uint64_t overrun;

static void open_port(struct port *port, const char *dir, int console) {
    int near;
    char name[128], path[512];
    struct termios raw;
    if (openpty(&port->fd, &near, name, NULL, NULL)) fail("openpty");
    tcgetattr(near, &raw);
    cfmakeraw(&raw);
    cfsetspeed(&raw, B115200);
    tcsetattr(near, TCSANOW, &raw);
    path_of(path, dir, console);
    unlink(path);
    if (symlink(name, path)) fail(path);
    /* The near end stays open here, so that the port never hangs up. */
    fcntl(port->fd, F_SETFL, O_NONBLOCK);
}

/* Whether nothing of an earlier record is left to be said. */
static int whole(struct port *port) {
    if (port->rest_len) {
        ssize_t n = write(port->fd, port->rest + port->rest_at, (size_t)port->rest_len);
        if (n > 0) port->rest_at += (int)n, port->rest_len -= (int)n;
    }
    return port->rest_len == 0;
}

static int say_record(struct port *port, int console, uint32_t number, char kind) {
    char record[RECORD + 1];
    int head = snprintf(record, sizeof record, "@%04x %08x %016llx %c", console & 0xffff, number,
                        (unsigned long long)now(), kind);
    for (int i = head; i < RECORD - 2; i++) record[i] = (char)('a' + i % 26);
    record[RECORD - 2] = '\r';
    record[RECORD - 1] = '\n';
    ssize_t n = write(port->fd, record, RECORD);
    if (n < 0) return 0;
    port->rest_at = 0;
    port->rest_len = RECORD - (int)n;
    memcpy(port->rest, record + n, (size_t)port->rest_len);
    return 1;
}

static void take_keys(struct port *port) {
    char keys[4096];
    ssize_t n = read(port->fd, keys, sizeof keys);
    for (ssize_t i = 0; i < n; i++) port->keys += keys[i] == 'k';
}

static void answer_keys(struct port *port, int console) {
    while (port->keys > 0 && whole(port) && say_record(port, console, 0, 'e')) port->keys--;
}

static void say_due(struct port *port, int console, double due) {
    for (; (double)port->due < due; port->due++) {
        if (whole(port) && say_record(port, console, port->sent, 'd')) port->sent++;
        else overrun++;
    }
}

/* What waits at the ports, for so many ms at most. */
static void hear(int epoll, struct port *ports, int wait) {
    struct epoll_event events[256];
    int n = epoll_wait(epoll, events, 256, wait);
    for (int i = 0; i < n; i++) take_keys(&ports[events[i].data.u64]);
}

static void report(struct port *ports, int n) {
    printf("overrun %llu", (unsigned long long)overrun);
    for (int i = 0; i < n; i++) printf(" %u", ports[i].sent);
    say("");
}

static int source(const char *dir, int n, double rate, double seconds) {
    struct port *ports = room((size_t)n, sizeof *ports);
    int epoll = epoll_create1(0);
    for (int i = 0; i < n; i++) {
        open_port(&ports[i], dir, i);
        watch(epoll, ports[i].fd, (uint64_t)i);
    }
    say("ready");
    char go[8];
    if (!fgets(go, sizeof go, stdin)) return 0;

    uint64_t begin = now(), end = begin + (uint64_t)(seconds * (double)SECOND);
    double per_ns = rate / RECORD / (double)SECOND;
    for (uint64_t t = begin; t < end; t = now()) {
        for (int i = 0; i < n; i++) {
            answer_keys(&ports[i], i);
            /* Ports do not speak in step: each begins a little later. */
            say_due(&ports[i], i, (double)(t - begin) * per_ns - (double)i / n);
        }
        hear(epoll, ports, 1);
    }
    for (int i = 0; i < n; i++)
        for (uint64_t patience = now() + SECOND; !whole(&ports[i]) && now() < patience;) hear(epoll, ports, 1);
    report(ports, n);
    while (!input_ended()) {
        hear(epoll, ports, 5);
        for (int i = 0; i < n; i++) answer_keys(&ports[i], i);
    }
    return 0;
}

/* ---- the floor -------------------------------------------------------- */

/* What an event is about; the rest of its key is an index. */
enum { TTY, DOOR, CLIENT, INPUT };
#define KEY(kind, index) ((uint64_t)(kind) << 32 | (uint32_t)(index))

struct client {
    int fd, console, next; /* next client of the same console, or -1 */
};

struct floor {
    int epoll, clients;
    int tty[MOST_CONSOLES], journal[MOST_CONSOLES], door[MOST_CONSOLES], first[MOST_CONSOLES];
    struct client client[4 * MOST_CONSOLES];
    char buffer[BUFFER];
};

static int open_door(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (void *)&at, sizeof at) || listen(fd, 16)) fail("listen");
    return fd;
}

/* Read, append, send; who is slow misses it. */
static void pass_on(struct floor *f, int console) {
    ssize_t n = read(f->tty[console], f->buffer, BUFFER);
    if (n <= 0) return;
    if (write(f->journal[console], f->buffer, (size_t)n) != n) fail("the journal");
    for (int c = f->first[console]; c >= 0; c = f->client[c].next)
        (void)!send(f->client[c].fd, f->buffer, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void let_in(struct floor *f, int console) {
    int yes = 1, fd = accept(f->door[console], NULL, NULL), c = f->clients;
    if (fd < 0 || c == 4 * MOST_CONSOLES) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    f->client[c] = (struct client){fd, console, f->first[console]};
    f->first[console] = c;
    f->clients++;
    watch(f->epoll, fd, KEY(CLIENT, c));
}

static void type_in(struct floor *f, struct client *client) {
    ssize_t n = read(client->fd, f->buffer, BUFFER);
    if (n <= 0) epoll_ctl(f->epoll, EPOLL_CTL_DEL, client->fd, NULL);
    else (void)!write(f->tty[client->console], f->buffer, (size_t)n);
}

static int serve_floor(const char *dir, int n, int port) {
    struct floor *f = room(1, sizeof *f);
    char path[512];
    f->epoll = epoll_create1(0);
    watch(f->epoll, 0, KEY(INPUT, 0));
    for (int i = 0; i < n; i++) {
        path_of(path, dir, i);
        if ((f->tty[i] = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK)) < 0) fail(path);
        strcat(path, ".log");
        if ((f->journal[i] = open(path, O_CREAT | O_APPEND | O_WRONLY, 0600)) < 0) fail(path);
        f->door[i] = open_door(port + i);
        f->first[i] = -1;
        watch(f->epoll, f->tty[i], KEY(TTY, i));
        watch(f->epoll, f->door[i], KEY(DOOR, i));
    }
    say("ready");
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(f->epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int index = (int)(uint32_t)events[i].data.u64;
            switch (events[i].data.u64 >> 32) {
            case TTY: pass_on(f, index); break;
            case DOOR: let_in(f, index); break;
            case CLIENT: type_in(f, &f->client[index]); break;
            case INPUT: return 0;
            }
        }
    }
}

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    int n = argc > 3 ? atoi(argv[3]) : 0;
    if (n < 1 || n > MOST_CONSOLES) return 2;
    if (argc == 6 && !strcmp(argv[1], "source")) return source(argv[2], n, atof(argv[4]), atof(argv[5]));
    if (argc == 5 && !strcmp(argv[1], "floor")) return serve_floor(argv[2], n, atoi(argv[4]));
    fprintf(stderr, "usage: line source DIR N BYTES_PER_S SECONDS | line floor DIR N PORT\n");
    return 2;
}
