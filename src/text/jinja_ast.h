/* jinja_ast.h - a template between its text and its rendering: tokens and nodes.
 *
 * Nodes lie in the program's arena and do not change once it is compiled. What a
 * node's fields mean is said at its kind; `list`, `more` and `body` hold children
 * in the order of the text. */
#ifndef QUERN_TEXT_JINJA_AST_H
#define QUERN_TEXT_JINJA_AST_H

#include "text/jinja_run.h"
#include "text/jinja_text.h"

enum jinja_token_kind {
    TOKEN_END,
    TOKEN_TEXT,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_VARIABLE_BEGIN,
    TOKEN_VARIABLE_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_NUMBER,
    TOKEN_OPERATOR,
};

/* Operators of two characters; the others stand for themselves. */
enum { OP_EQUAL = 'E', OP_DIFFERENT = 'N', OP_AT_LEAST = 'G', OP_AT_MOST = 'L', OP_FLOOR = 'f',
    OP_POWER = 'p', OP_IN = 'i', OP_NOT_IN = 'n' };

struct jinja_token {
    enum jinja_token_kind kind;
    char op;
    unsigned line;
    const char *text; /* NAME, TEXT, and for messages: a piece of the source */
    size_t bytes;
    value_ref value;  /* STRING, NUMBER */
};

enum jinja_node_kind {
    /* expressions */
    NODE_CONST,   /* value */
    NODE_NAME,    /* name, slot, hops; also a target of an assignment */
    NODE_NS_REF,  /* a target: name.attribute; a: the NAME, name: the attribute */
    NODE_LIST,    /* list */
    NODE_TUPLE,   /* list; also a target */
    NODE_DICT,    /* list: keys, more: values */
    NODE_NOT,     /* a */
    NODE_NEGATE,  /* a */
    NODE_PLUS,    /* a */
    NODE_BINARY,  /* a op b */
    NODE_AND,     /* a, b */
    NODE_OR,      /* a, b */
    NODE_COMPARE, /* a, list of OPERANDs */
    NODE_OPERAND, /* op a */
    NODE_CONCAT,  /* list */
    NODE_CHOICE,  /* b if a else c; c may be NULL */
    NODE_ATTRIBUTE, /* a.name: value is the name as a string */
    NODE_ITEM,    /* a[b] */
    NODE_SLICE,   /* a[list[0]:list[1]:list[2]] */
    NODE_CALL,    /* a(list, more: KEYWORDs, *b, **c) */
    NODE_KEYWORD, /* name=a; value is the name as a string */
    NODE_FILTER,  /* a | name(list, more, *b, **c); a NULL: the block's text */
    NODE_TEST,    /* a is name(list, more, *b, **c) */
    /* statements */
    NODE_TEXT,    /* value */
    NODE_OUTPUT,  /* a */
    NODE_IF,      /* list of BRANCHes */
    NODE_BRANCH,  /* if a (NULL: else): body */
    NODE_FOR,     /* for a in b if c: body else more; d: the target again, for c */
    NODE_BREAK,
    NODE_CONTINUE,
    NODE_SET,       /* a = b */
    NODE_SET_BLOCK, /* a = body, through the filters b (NULL: none) */
    NODE_MACRO,     /* name (a: its NAME), list: parameters, more: defaults, body */
    NODE_CALL_BLOCK, /* call a (NULL: generation) with a caller: list, more, body */
    NODE_FILTER_BLOCK, /* body through the filters b */
    NODE_WITH,      /* list = more: body */
};

struct jinja_list {
    struct jinja_node **items;
    size_t count, room;
};

/* What happens to a scope's names when it is entered. */
struct jinja_load {
    enum { LOAD_MISSING, LOAD_CONTEXT, LOAD_ALIAS } action;
    unsigned slot, hops, from; /* ALIAS: from that slot, so many functions outwards */
    const char *name;          /* CONTEXT */
    size_t bytes;
};

struct jinja_scope {
    struct jinja_load *loads;
    size_t count;
};

struct jinja_node {
    enum jinja_node_kind kind;
    char op;
    bool calls_caller; /* MACRO, CALL_BLOCK: the special names that its body uses */
    bool takes_named, takes_more;
    unsigned line, depth;
    const char *name; /* 0-terminated */
    size_t bytes;
    value_ref value;
    struct jinja_node *a, *b, *c, *d;
    struct jinja_list list, more, body;
    unsigned slot, hops;   /* NAME. FOR: slot of `loop`. MACRO, CALL_BLOCK: slots of a frame */
    bool has_loop;         /* FOR: its body uses `loop` */
    struct jinja_scope scope, other; /* of the body; FOR: of the condition */
    struct jinja_scope last;         /* FOR: of the else branch */
    unsigned caller_slot, named_slot, more_slot; /* MACRO, CALL_BLOCK */
};

struct jinja_program {
    struct text_arena arena;
    const char *name, *source;
    struct jinja_node *root; /* a CALL_BLOCK without a call */
    bool loops_over_content;
};

/* A compilation: `run` has the arena, the line and the errors. */
struct jinja_compiler {
    struct jinja_run run;
    struct jinja_token *tokens; /* malloc'ed; the last is a TOKEN_END */
    size_t count, room, at;
    unsigned loops;             /* around the statement, within its function */
    unsigned names;             /* in all scopes together */
};

/* A call's frame: the variables of one function. */
struct jinja_frame {
    struct jinja_frame *outer; /* of the function around it */
    value_ref slots[];         /* NULL: not set */
};

/* jinja_lex.c */
bool jinja_lex(struct jinja_compiler *c, const char *text, size_t bytes);
bool jinja_lex_string(struct jinja_run *r, const char *text, size_t bytes, value_ref *out);
bool jinja_lex_number(struct jinja_run *r, const char *text, size_t bytes, size_t *used,
    bool after_point, value_ref *out);

/* jinja_parse.c */
bool jinja_parse(struct jinja_compiler *c, struct jinja_list *body);
struct jinja_node *jinja_node(struct jinja_compiler *c, enum jinja_node_kind kind);
bool jinja_add(struct jinja_compiler *c, struct jinja_node *parent, struct jinja_list *list,
    struct jinja_node *child);
/* Notes the child's depth; false, with an error, if the child is NULL or it is too deep. */
bool jinja_adopt(struct jinja_compiler *c, struct jinja_node *parent, struct jinja_node *child);

/* jinja_tokens.c: a look at the next token, and what must follow. */
const struct jinja_token *jinja_peek(const struct jinja_compiler *c, size_t ahead);
bool jinja_at_op(const struct jinja_compiler *c, char op);
bool jinja_at_name(const struct jinja_compiler *c, const char *name);
bool jinja_skip_op(struct jinja_compiler *c, char op);
bool jinja_skip_name(struct jinja_compiler *c, const char *name);
bool jinja_expect_op(struct jinja_compiler *c, char op);
bool jinja_expect_kind(struct jinja_compiler *c, enum jinja_token_kind kind, const char *what);
/* "unexpected ..." about the next token; always false. */
bool jinja_unexpected(struct jinja_compiler *c, const char *wanted);

/* jinja_parse_expr.c: NULL after an error. */
struct jinja_node *jinja_parse_expression(struct jinja_compiler *c, bool choices);
struct jinja_node *jinja_parse_tuple(struct jinja_compiler *c, bool choices, const char *end_name,
    bool parentheses);
struct jinja_node *jinja_parse_target(struct jinja_compiler *c, const char *end_name,
    bool namespaces);
struct jinja_node *jinja_parse_filters(struct jinja_compiler *c, struct jinja_node *input);
struct jinja_node *jinja_parse_primary(struct jinja_compiler *c, bool namespaces);
struct jinja_node *jinja_parse_postfix(struct jinja_compiler *c, struct jinja_node *n);

/* jinja_names.c */
bool jinja_resolve(struct jinja_compiler *c, struct jinja_node *root);

/* jinja_exec.c */
bool jinja_enter_scope(struct jinja_run *r, const struct jinja_scope *s, struct jinja_frame *f);

#endif
