/// What the command says of a model's tokenizer.
module LayerSkip.Tests.CliTokenizerTests

open System.IO
open Expecto
open LayerSkip.Tests.CliSupport

let private withTokenizer (tokenizer: string) (body: string -> unit) =
    withModel (fun folder ->
        File.WriteAllText(Path.Combine(folder, "tokenizer.json"), tokenizer)

        File.WriteAllText(
            Path.Combine(folder, "tokenizer_config.json"),
            """{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"}"""
        )

        body folder)

let private parts (pre: string) =
    $"""{{"added_tokens": [{{"id": 1, "content": "<s>", "special": true}}], "pre_tokenizer": {pre},
        "model": {{"vocab": {{"a": 0, "b": 2}}, "merges": []}}}}"""

let private split (pattern: string) =
    $"""{{"type": "Split", "pattern": {{"Regex": "{pattern}"}}, "behavior": "Isolated", "invert": false}}"""

let private run folder options = cli ([ "generate"; "--model"; folder ] @ count 2 @ options)

[<Tests>]
let tests =
    testList "command line: tokenizers" [
        testCase "a prompt that begins with BOS, which it gets anyway, is remarked on" (fun () ->
            withTokenizer (parts "null") (fun folder ->
                let twice = run folder [ "--prompt"; "<s>ab" ]
                Expect.equal twice.Code 0 "it runs"
                Expect.stringContains twice.Error "begins with <s>" "a remark"
                let once = run folder [ "--prompt"; "ab" ]
                Expect.isFalse (once.Error.Contains "begins with") "none"))

        testCase "a tokenizer that is not read leaves the model its ids" (fun () ->
            withTokenizer (parts (split "[[:punct:]]+")) (fun folder ->
                let text = run folder [ "--prompt"; "ab" ]
                Expect.equal text.Code 2 "no text"
                Expect.stringContains text.Error "[:punct:]" "says why"
                Expect.equal (text.Error.Trim().Split '\n').Length 1 "one line"
                let byIds = run folder ids
                Expect.equal byIds.Code 0 "ids"
                Expect.stringContains byIds.Error "ids only" "a remark"))

        testCase "a pattern that backtracks without end is one line" (fun () ->
            withTokenizer (parts (split "(?=a)(?:a|b|ab)*c")) (fun folder ->
                let outcome = run folder [ "--prompt"; String.replicate 40 "ab" + "!c" ]
                Expect.equal outcome.Code 2 "bad input"
                Expect.equal (outcome.Error.Trim().Split '\n').Length 1 "one line"))
    ]
