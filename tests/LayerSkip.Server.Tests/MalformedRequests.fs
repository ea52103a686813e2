module LayerSkip.Server.Tests.MalformedRequests

open System
open System.Text

/// A request that nobody should make: where to, how, and what.
type Malformed = { Name: string; Method: string; Path: string; Body: byte[]; Type: string }

let private utf8 (text: string) = Encoding.UTF8.GetBytes text

let private posted path name (body: string) = {
    Name = $"{path}: {name}"
    Method = "POST"
    Path = path
    Body = utf8 body
    Type = "application/json"
}

// Values of every kind; each field has those that it takes.
let private values = [
    "text", "\"x\""
    "empty", "\"\""
    "number", "3"
    "fraction", "1.5"
    "negative", "-7"
    "huge", "1e400"
    "long", String('9', 400)
    "beyond", "9223372036854775808"
    "true", "true"
    "list", "[]"
    "nested", "[[[]]]"
    "object", "{}"
    "texts", "[\"a\", 1]"
]

let private fields: (string * string list) list = [
    "max_tokens", [ "number" ]
    "temperature", [ "number"; "fraction" ]
    "top_p", []
    "top_k", [ "number" ]
    "n", [ "number" ]
    "stream", [ "true" ]
    "stream_options", [ "object" ]
    "stop", [ "text"; "list" ]
    "stop_token_ids", [ "list" ]
    "seed", [ "number"; "negative" ]
    "logit_bias", [ "object" ]
    "presence_penalty", [ "fraction" ]
    "frequency_penalty", [ "fraction" ]
    "ignore_eos", [ "true" ]
    "echo", [ "true" ]
    "exit_layer", [ "number" ]
    "draft_length", [ "number" ]
    "strategy", []
    "policy", []
    "drafter", []
    "stop_rule", []
    "draft_vocabulary", [ "number" ]
]

/// Each field with each value that it does not take.
let private ofFields = [
    for field, taken in fields do
        for kind, value in values do
            if not (List.contains kind taken) && not (field = "logit_bias" && kind = "list") then
                posted
                    "/v1/completions"
                    $"{field} is {kind}"
                    $"""{{"prompt": "x", "temperature": 0, "max_tokens": 2, "{field}": {value}}}"""
]

let private ofPrompts = [
    for name, value in
        [
            "a number", "1"
            "true", "true"
            "an object", "{}"
            "no prompt", "[]"
            "a fraction", "[1.5]"
            "text and ids", "[\"a\", 1]"
            "ids and text", "[1, \"a\"]"
            "lists of texts", "[[\"a\"]]"
            "an empty list inside", "[[1], []]" + " "
            "null inside", "[null]"
            "deep", "[[[1]]]"
            "a big id", "[99999999999]"
            "an unknown id", "[1024]"
            "a negative id", "[-1]"
        ] do
        if not (name.StartsWith "an empty list") then
            posted "/v1/completions" $"prompt is {name}" $"""{{"prompt": {value}, "max_tokens": 1}}"""
]

/// Bodies that are no JSON object.
let private bodies = [
    "nothing", [||]
    "spaces", utf8 "   "
    "a word", utf8 "hello"
    "a list", utf8 "[1, 2]"
    "a text", utf8 "\"prompt\""
    "null", utf8 "null"
    "half an object", utf8 """{"prompt": "x" """
    "a comma too many", utf8 """{"prompt": "x",}"""
    "single quotes", utf8 "{'prompt': 'x'}"
    "two objects", utf8 """{"prompt": "x"}{"prompt": "y"}"""
    "NaN", utf8 """{"prompt": "x", "temperature": NaN}"""
    "Infinity", utf8 """{"prompt": "x", "temperature": Infinity}"""
    "a comment", utf8 """{"prompt": "x" /* no */}"""
    "a bare newline in a text", utf8 "{\"prompt\": \"a\nb\"}"
    "an octal number", utf8 """{"prompt": "x", "max_tokens": 01}"""
    "hexadecimal", utf8 """{"prompt": "x", "max_tokens": 0x10}"""
    "half a surrogate", utf8 """{"prompt": "\ud800"}"""
    "the other half", utf8 """{"prompt": "a\udc00b"}"""
    "a bad escape", utf8 """{"prompt": "\x41"}"""
    "an overlong form", Array.concat [ utf8 "{\"prompt\": \""; [| 0xC0uy; 0xAFuy |]; utf8 "\"}" ]
    "a lone continuation", Array.concat [ utf8 "{\"prompt\": \""; [| 0x80uy |]; utf8 "\"}" ]
    "half a character", Array.concat [ utf8 "{\"prompt\": \""; [| 0xE2uy; 0x82uy |]; utf8 "\"}" ]
    "a surrogate in UTF-8", Array.concat [ utf8 "{\"prompt\": \""; [| 0xEDuy; 0xA0uy; 0x80uy |]; utf8 "\"}" ]
    "UTF-16", Encoding.Unicode.GetPreamble()
    "bytes", Array.init 256 byte
    "zeros", Array.zeroCreate 64
    "deep lists", utf8 (String('[', 100_000))
    "deep objects", utf8 (String.replicate 50_000 "{\"a\":")
    "a deep field", utf8 ("{\"prompt\": \"x\", \"x\": " + String('[', 100) + String(']', 100) + "}")
]

let private ofBodies = [
    for path in [ "/v1/completions"; "/tokenize"; "/detokenize" ] do
        for name, body in bodies do
            {
                Name = $"{path}: {name}"
                Method = "POST"
                Path = path
                Body = body
                Type = "application/json"
            }
]

let private ofMethods = [
    for path, methods in
        [
            "/v1/completions", [ "GET"; "PUT"; "DELETE"; "PATCH"; "OPTIONS"; "TRACE"; "BREW" ]
            "/v1/models", [ "POST"; "DELETE" ]
            "/tokenize", [ "GET" ]
            "/detokenize", [ "GET" ]
            "/health", [ "POST" ]
            "/metrics", [ "PUT" ]
            "/", [ "POST"; "DELETE" ]
        ] do
        for verb in methods do
            {
                Name = $"{verb} {path}"
                Method = verb
                Path = path
                Body = [||]
                Type = "application/json"
            }
]

let private ofPaths = [
    for path in
        [
            "/v1"
            "/v1/completions/x"
            "/v1/models/../secrets"
            "/v1/models/no-such"
            "/..%2f..%2fetc/passwd"
            "/v1/embeddings"
            "/" + String('a', 4000)
        ] do
        {
            Name = path.Substring(0, min 40 path.Length)
            Method = "GET"
            Path = path
            Body = [||]
            Type = "application/json"
        }
]

let private others = [
    posted "/v1/completions" "no prompt" "{}"
    posted "/v1/completions" "another model" """{"prompt": "x", "model": "other"}"""
    posted "/v1/completions" "a model that is a number" """{"prompt": "x", "model": 4}"""
    posted "/v1/completions" "too long a prompt" $"""{{"prompt": "{String.replicate 3000 "word "}"}}"""
    posted "/v1/completions" "an exit beyond the model" """{"prompt": "x", "exit_layer": 24}"""
    posted "/v1/completions" "a bias of a word" """{"prompt": "x", "logit_bias": {"word": 1}}"""
    posted "/v1/completions" "too strong a bias" """{"prompt": "x", "logit_bias": {"5": 1e9}}"""
    posted
        "/v1/completions"
        "too many stop texts"
        $"""{{"prompt": "x", "stop": [{String.Join(',', Array.replicate 100 "\"s\"")}]}}"""
    posted "/tokenize" "no prompt" "{}"
    posted "/detokenize" "no ids" "{}"
    posted "/detokenize" "an unknown id" """{"tokens": [4096]}"""
]

/// All of them.
let all: Malformed list = ofFields @ ofPrompts @ ofBodies @ ofMethods @ ofPaths @ others
