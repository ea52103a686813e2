/// What is read of texts and JSON lines: which lessons they hold, and what is said where they hold none.
module LayerSkip.Tests.LessonTests

open System
open System.IO
open System.Text
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.FileSupport

let private text (words: string) : byte[] = Encoding.UTF8.GetBytes words

/// What a file's lessons are, or what is said of it.
let private lessonsOf (name: string) (bytes: byte[]) : Result<Lesson list, string> =
    withFolder (fun folder ->
        let path = Path.Combine(folder, name)
        File.WriteAllBytes(path, bytes)

        try
            match Texts.check path with
            | [] -> Ok(List.ofSeq (Texts.read path))
            | faults -> Error(LayerSkipError.summary faults)
        with :? LayerSkipException as e ->
            Error e.Message)

let private a, b = Lesson.Text "a", Lesson.Text "b"
let private good = "{\"text\": \"a\"}"

/// Lines of conversations: what stands in "messages", and the whole object.
let private said = """{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}"""
let private messages (inside: string) = text ("{\"messages\": [" + inside + "]}")
let private answer (more: string) =
    messages (
        """{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", """
        + more
        + "}"
    )

let private chatOf (learned: int list) (spoken: ChatMessage list) =
    Lesson.Chat { Place = "line 1"; Messages = spoken; Learned = learned; Tools = [] }

let private user, assistant = ChatMessage.user "a", ChatMessage.assistant "b"
let private asked = { Id = None; Name = "f"; Arguments = "{\"x\": 1}" }

let private conversations: (string * byte[] * Lesson) list = [
    "messages", messages said, chatOf [ 1 ] [ user; assistant ]
    "a text of null beside messages",
    text ("{\"text\": null, \"id\": 7, \"messages\": [" + said + "]}"),
    chatOf [ 1 ] [ user; assistant ]
    "parts of text",
    messages (
        """{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, """
        + said
    ),
    chatOf [ 2 ] [ ChatMessage.user "a\nb"; user; assistant ]
    "the system's newer name",
    messages ("""{"role": "developer", "content": "s"}, """ + said),
    chatOf [ 2 ] [ ChatMessage.system "s"; user; assistant ]
    "an answer that is left out",
    messages (
        said
        + ", "
        + said.Replace("\"b\"", "\"b\", \"weight\": 0")
        + ", "
        + said.Replace("\"b\"", "\"b\", \"train\": false")
    ),
    chatOf [ 1 ] [ user; assistant; user; assistant; user; assistant ]
    "what opens a conversation is no answer",
    messages ("""{"role": "assistant", "content": "hi"}, """ + said),
    chatOf [ 2 ] [ ChatMessage.assistant "hi"; user; assistant ]
    "an answer of nothing",
    messages """{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}""",
    chatOf [ 1 ] [ user; ChatMessage.assistant "" ]
    "a call whose arguments are an object",
    messages
        """{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}""",
    chatOf [ 1 ] [ user; { ChatMessage.assistant "" with ToolCalls = [ asked ] } ]
    "a call whose arguments are a text, and its answer",
    messages
        """{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]}, {"role": "tool", "tool_call_id": "1", "name": "f", "content": "7"}""",
    chatOf [ 1 ] [
        user
        { ChatMessage.assistant "" with ToolCalls = [ { asked with Id = Some "1" } ] }
        { ChatMessage.ofRole "tool" "7" with ToolCallId = Some "1"; Name = Some "f" }
    ]
    "tools",
    text (
        """{"tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}, {"function": {"name": "g"}}], "messages": ["""
        + said
        + "]}"
    ),
    Lesson.Chat {
        Place = "line 1"
        Messages = [ user; assistant ]
        Learned = [ 1 ]
        Tools = [
            { Name = "f"; Description = Some "d"; Parameters = "{\"type\": \"object\"}" }
            {
                Name = "g"
                Description = None
                Parameters = """{"type": "object", "properties": {}}"""
            }
        ]
    }
]

/// What is said of conversations that are none.
let private noConversations: (string * byte[] * string) list = [
    "broken JSON", text "{\"messages\": [", "line 1 is not valid JSON"
    "messages that are a text", text "{\"messages\": \"a\"}", "line 1: \"messages\" must be a list"
    "no messages", messages "", "line 1: \"messages\" is empty"
    "messages of null", text "{\"messages\": null}", "or with \"messages\"; it has \"messages\""
    "a message that is a text", messages "\"a\"", "\"messages[0]\" must be an object"
    "no role", messages """{"content": "a"}""", "\"messages[0].role\" is missing"
    "a role of another type",
    messages """{"role": 1, "content": "a"}""",
    "\"messages[0].role\" must be a text"
    "no content", messages """{"role": "user"}""", "\"messages[0].content\" is missing"
    "no content of an assistant that calls nothing",
    messages """{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": []}""",
    "\"messages[1].content\" is missing"
    "content of another type",
    messages """{"role": "user", "content": 1}""",
    "\"messages[0].content\" must be a text, or a list of parts of type text"
    "a picture",
    messages """{"role": "user", "content": [{"type": "image_url"}]}""",
    "\"messages[0].content[0].type\" is image_url; only text is learned from"
    "half a character", messages """{"role": "user", "content": "\ud800"}""", "half a character"
    "half a character in a name", text "{\"messages\": [], \"\\ud800\": 1}", "line 1"
    "no answer",
    messages """{"role": "user", "content": "a"}""",
    "\"messages\" has no answer of the assistant's"
    "nothing but an opening",
    messages """{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}""",
    "\"messages\" has no answer of the assistant's"
    "no answer to learn", answer "\"weight\": 0", "\"messages\" has nothing to learn"
    "half a weight", answer "\"weight\": 0.5", "\"messages[1].weight\" must be 0 or 1"
    "a train that is a number", answer "\"train\": 1", "\"messages[1].train\" must be true or false"
    "a question to learn",
    messages ("""{"role": "user", "content": "a", "weight": 1}, """ + said),
    "\"messages[0].weight\" asks for a message to be learned that is not the assistant's"
    "a call without a name",
    answer "\"tool_calls\": [{\"function\": {\"arguments\": {}}}]",
    "\"messages[1].tool_calls[0].function.name\" is missing"
    "arguments that are a list",
    answer "\"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": []}}]",
    "arguments\" must be an object, or the text of one"
    "tools that are an object",
    text ("{\"tools\": {}, \"messages\": [" + said + "]}"),
    "line 1: \"tools\" must be a list"
    "messages and a text",
    text ("{\"text\": \"a\", \"messages\": [" + said + "]}"),
    "line 1 has \"messages\" and \"text\"; leave one or the other"
    "messages twice",
    text ("{\"messages\": [], \"messages\": [" + said + "]}"),
    "line 1 has \"messages\" twice"
]

/// A file's name and bytes, and its lessons.
let private readable: (string * string * byte[] * Lesson list) list = [
    "lines", "x.jsonl", text $"{good}\n{{\"text\": \"b\"}}\n", [ a; b ]
    "a line without an end", "x.ndjson", text good, [ a ]
    "lines that end as on Windows", "x.jsonl", text $"{good}\r\n{good}\r\n", [ a; a ]
    "a byte order mark before lines", "x.jsonl", text $"\uFEFF{good}\n", [ a ]
    "blank lines", "x.jsonl", text $"\n{good}\n  \n\n{good}", [ a; a ]
    "other fields", "x.jsonl", text "{\"id\": 1, \"text\": \"a\", \"meta\": {\"n\": [1]}}", [ a ]
    "deep fields",
    "x.jsonl",
    text ("{\"text\": \"a\", \"m\": " + String('[', 5000) + String(']', 5000) + "}"),
    [ a ]
    "texts of nothing", "x.jsonl", text $"{{\"text\": \"\"}}\n{good}\n{{\"text\": \" \\n\"}}", [ a ]
    "pairs of nothing", "x.jsonl", text "{\"prompt\": \"\", \"response\": \"\"}", []
    "a response of nothing",
    "x.jsonl",
    text "{\"prompt\": \"a\", \"response\": \"\"}",
    [ Lesson.Pair("a", "") ]
    "a completion",
    "x.jsonl",
    text "{\"prompt\": \"a\", \"completion\": \"b\", \"chosen\": 1}",
    [ Lesson.Pair("a", "b") ]
    "escaped line ends", "x.jsonl", text "{\"text\": \"a\\r\\nb\"}", [ Lesson.Text "a\r\nb" ]
    "an escaped pair", "x.jsonl", text "{\"text\": \"\\ud83d\\ude00\"}", [ Lesson.Text "😀" ]
    "one array", "x.json", text $"[{good},\n {{\"text\": \"b\"}}]", [ a; b ]
    "one array after a mark", "x.json", text $"\uFEFF \n[{good}]", [ a ]
    "one array that is called lines", "x.jsonl", text $"[{good}, {good}]", [ a; a ]
    "lines that are called JSON", "x.json", text $"{good}\n{good}", [ a; a ]
    "an empty array", "x.json", text "[]", []
    "plain text", "x.txt", text " a\n", [ a ]
    "a byte order mark before a text", "x.txt", text "\uFEFFa", [ a ]
    "separators", "x.txt", text "a<|endoftext|>b\n<|endoftext|>\n", [ a; b ]
    "separators on Windows", "x.txt", text "a\r\n<|endoftext|>\r\nb\r\n<|endoftext|>\r\n", [ a; b ]
    "lines on Windows", "x.txt", text "a\r\nb", [ Lesson.Text "a\nb" ]
    "nothing but white space", "x.txt", text " \n\t\n", []
    "nothing but separators", "x.txt", text "<|endoftext|><|endoftext|>", []
    "white space within", "x.txt", text "a \n\n b", [ Lesson.Text "a \n\n b" ]
    "what looks like a separator", "x.txt", text "a<|endof> text|>", [ Lesson.Text "a<|endof> text|>" ]
]

/// A file's name and bytes, and what is said of it.
let private unreadable: (string * string * byte[] * string) list = [
    "an empty file", "x.txt", [||], "is empty; there is nothing to learn from"
    "no JSON", "x.jsonl", text $"{good}\n{{\"text\": ", "line 2 is not valid JSON"
    "no object", "x.jsonl", text $"{good}\n[\"a\"]", "line 2 is not a JSON object"
    "a text alone", "x.jsonl", text $"{good}\n\"a\"", "line 2 is not a JSON object"
    "an unknown field",
    "x.jsonl",
    text "{\"instruction\": \"a\", \"output\": \"b\"}",
    "it has \"instruction\", \"output\""
    "another case", "x.jsonl", text "{\"Text\": \"a\"}", "it has \"Text\""
    "no text", "x.jsonl", text "{\"text\": null}", "line 1 must be an object with \"text\""
    "a number", "x.jsonl", text "{\"text\": 5}", "all strings"
    "no response", "x.jsonl", text "{\"prompt\": \"a\"}", "\"response\" (or \"completion\")"
    "a null response", "x.jsonl", text "{\"prompt\": \"a\", \"response\": null}", "all strings"
    "text and pair",
    "x.jsonl",
    text "{\"text\": \"a\", \"prompt\": \"a\", \"response\": \"b\"}",
    "line 1 must be"
    "two responses",
    "x.jsonl",
    text "{\"prompt\": \"a\", \"response\": \"b\", \"completion\": \"c\"}",
    "line 1 must be"
    "a text twice",
    "x.jsonl",
    text $"{good}\n{{\"text\": \"a\", \"text\": \"b\"}}",
    "line 2 has \"text\" twice"
    "half a pair",
    "x.jsonl",
    text $"{good}\n{{\"text\": \"a\\ud800\"}}",
    "line 2 has half a character in \"text\""
    "half a pair in a name", "x.jsonl", text "{\"\\ud800\": \"a\"}", "line 1 must be an object"
    "half a pair in an array", "x.json", text "[{\"text\": \"\\udc00\"}]", "element 1 has half a character"
    "no object in an array", "x.json", text $"[{good}, 7]", "element 2 is not a JSON object"
    "an array without an end", "x.json", text $"[{good}", "not valid JSON"
    "more after an array", "x.json", text $"[{good}]\n[{good}]", "not valid JSON"
    "Latin-1", "x.txt", [| 0x61uy; 0xE9uy; 0x62uy |], "is not UTF-8 text: byte 0xE9 in line 1"
    "Latin-1 in JSON",
    "x.jsonl",
    Array.concat [ text (good + "\n{\"text\": \""); [| 0xE9uy |]; text "\"}" ],
    "is not UTF-8 text: byte 0xE9 in line 2"
    "UTF-16", "x.txt", Array.append [| 0xFFuy; 0xFEuy |] (Encoding.Unicode.GetBytes "text"), "is UTF-16"
    "UTF-16 in JSON",
    "x.jsonl",
    Array.append [| 0xFFuy; 0xFEuy |] (Encoding.Unicode.GetBytes good),
    "is UTF-16"
    "NUL", "x.txt", text "a\000b", "NUL bytes"
    "a pointer", "x.txt", text "version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer"
    "a page of an error", "x.jsonl", text "\n<!DOCTYPE html><html>404</html>", "is a web page"
    "a pointer to JSON", "x.json", text "version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer"
]

let private reading =
    testList "reading" [
        for name, file, bytes, expected in readable do
            testCase name (fun () -> Expect.equal (lessonsOf file bytes) (Ok expected) file)

        testCase "conversations in one array" (fun () ->
            let one = "{\"messages\": [" + said + "]}"

            match lessonsOf "x.json" (text $"[{good}, {one}]") with
            | Ok [ _; Lesson.Chat chat ] ->
                Expect.equal (chat.Place, chat.Learned) ("element 2", [ 1 ]) "its place"
            | other -> failtest $"%A{other}")

        for name, bytes, expected in conversations do
            testCase name (fun () -> Expect.equal (lessonsOf "x.jsonl" bytes) (Ok [ expected ]) name)

        for name, file, bytes, words in
            unreadable
            @ [ for name, bytes, words in noConversations -> name, "x.jsonl", bytes, words ] do
            testCase $"not {name}" (fun () ->
                match lessonsOf file bytes with
                | Ok lessons -> failtest $"%A{lessons}"
                | Error said ->
                    Expect.stringContains said words "what is wrong"
                    Expect.stringContains said $"{file}: " "where"
                    Expect.isFalse (said.Contains '\n') "one line")

        testProperty "parts of any plain text are its texts, without the white space around them"
        <| fun (seed: int) ->
            let random = Random seed
            let words = [|
                "one"
                " "
                "\n"
                "  \n "
                ">"
                "<|"
                Texts.separator
                String('x', 60_000)
                String.replicate 9_000 "six "
            |]
            let whole = String.concat "" [ for _ in 0..29 -> words[random.Next words.Length] ]

            let expected = [
                for part in whole.Split Texts.separator do
                    if not (String.IsNullOrWhiteSpace part) then
                        Lesson.Text(part.Trim())
            ]

            lessonsOf "x.txt" (text whole) = Ok expected

        testCase "a long text comes in parts of bounded length, with > in it or not" (fun () ->
            withFolder (fun folder ->
                for word in [ "word "; "word> "; "word"; "word>" ] do
                    let path = Path.Combine(folder, "x.txt")
                    let whole = String.replicate (8_000_000 / word.Length) word
                    File.WriteAllText(path, whole)
                    let parts = Texts.parts [] path |> List.ofSeq
                    let lengths =
                        parts
                        |> List.map (fun part ->
                            match part.Lesson with
                            | Lesson.Text text -> text.Length
                            | Lesson.Pair _
                            | Lesson.Chat _ -> 0)
                    Expect.isLessThanOrEqual (List.max lengths) (5 <<< 18) $"{word}: the longest"
                    Expect.equal (List.sum lengths) (whole.Trim().Length) "all"
                    Expect.equal (parts |> List.filter _.Begins |> List.length) 1 "one text"
                    Expect.equal
                        (parts |> List.map _.Ends |> List.findIndex id)
                        (parts.Length - 1)
                        "that ends once"))
    ]

[<Tests>]
let tests = testList "run data" [ reading ]
