module LayerSkip.Tests.CliWordTests

open System
open System.IO
open System.Text.Json
open Expecto

open LayerSkip
open LayerSkip.Cli
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport

/// The model that comes with the project: its tokenizer is byte-level.
let private shipped = Path.Combine(Support.root, "models", "stories-10m")

let private promptIds (options: string list) =
    let made = json ([ "generate"; "--model"; shipped; "--max-new-tokens"; "1" ] @ options)
    ints (made.GetProperty "prompt_ids")

/// What the command says of a path: its words come back in the message.
let private missing (arguments: string list) =
    let outcome = cli arguments
    Expect.equal outcome.Code 2 outcome.Error
    outcome.Error

[<Tests>]
let words =
    testList "command line: words" [
        testCase "a text means the same after = as after a space, whatever is in it" (fun () ->
            let tokenizer = Tokenizer.tryLoad shipped |> Check.getOrRaise |> Option.get

            for text in
                [
                    "One\nday"
                    "One\n"
                    "\nOne"
                    "\n"
                    "a\r\nb"
                    "a=b\nc=d"
                    "\"quoted\" 'text'\n"
                    "--- x\ny"
                    "--foo=1\n2"
                    "=\n="
                ] do
                let expected = Tokenizer.encode tokenizer text
                Expect.equal (promptIds [ $"--prompt={text}" ]) expected $"=%A{text}"

                if not (text.StartsWith '-') then
                    Expect.equal (promptIds [ "--prompt"; text ]) expected $"space %A{text}"

            for text in [ "--model"; "-x"; "a=b"; "\"q\""; "'" ] do
                Expect.equal (promptIds [ $"--prompt={text}" ]) (Tokenizer.encode tokenizer text) text

            Expect.equal (promptIds [ "--prompt=" ]) (promptIds [ "--prompt"; "" ]) "nothing")

        testCase "a value that looks like an option with a value of lines stays one value" (fun () ->
            let tokenizer = Tokenizer.tryLoad shipped |> Check.getOrRaise |> Option.get
            let text = "--seed=1\n2"
            Expect.equal (promptIds [ "--prompt"; text ]) (Tokenizer.encode tokenizer text) "one prompt")

        testCase "stop strings of lines stop, in either form" (fun () ->
            let text stop =
                let made =
                    json ([ "generate"; "--model"; shipped; "--prompt=Once"; "--max-new-tokens=60" ] @ stop)

                made.GetProperty("text").GetString()

            let whole = text []
            Expect.stringContains whole " " "words"
            Expect.equal (text [ "--stop= \n" ]) whole "a stop string with a line's end is not one without"
            Expect.equal (text [ "--stop=\n" ]) (text [ "--stop"; "\n" ]) "alike"
            Expect.equal (text [ "--stop=\n" ]) (whole.Split('\n')[0]) "where the first line ends")

        testCase "paths with line ends are read whole" (fun () ->
            for option in
                [
                    [ "info"; "--model=a\nb" ]
                    [ "generate"; "--model"; shipped; "--prompt-file=a\nb" ]
                    [ "export"; "--model"; shipped; "--output=a\nb/c" ]
                    [ "tokenizer"; "train"; "--vocab-size=300"; "--output=made"; "--text=a\nb" ]
                ] do
                Expect.stringContains (missing option) @"a\u000ab" (String.concat " " option))

        testCase "an option without a value takes none" (fun () ->
            let tokenizer = Tokenizer.tryLoad shipped |> Check.getOrRaise |> Option.get

            for flag in [ "--ignore-eos"; "--special" ] do
                Expect.equal (promptIds [ flag; "--prompt=a\nb" ]) (Tokenizer.encode tokenizer "a\nb") flag)
    ]

/// A tokenizer of which every piece spells a part of an escape sequence, for the tiny model.
let private escapes =
    // As byte-level tokenizers spell the bytes 1b and 9b's UTF-8.
    let escape, csi = "\u011b", "\u00c2\u013d"
    let pieces = [
        for i in 0..23 -> (if i % 2 = 0 then escape + "[3" else csi + "1m") + string (char (int 'a' + i))
    ]
    let vocabulary =
        pieces
        |> List.mapi (fun id piece -> $"{JsonSerializer.Serialize piece}: {id}")
        |> String.concat ","

    """{"version": "1.0", "added_tokens": [], "normalizer": null,
 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
 "post_processor": null, "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {VOCABULARY}, "merges": []}}"""
        .Replace("VOCABULARY", vocabulary)

[<Tests>]
let controls =
    testList "command line: what a file says steers no terminal" [
        testCase "a text of escape codes is shown on a terminal, and written as it is elsewhere" (fun () ->
            withModel (fun folder ->
                File.WriteAllText(Path.Combine(folder, "tokenizer.json"), escapes)

                let run shown (more: string list) =
                    use out = new StringWriter()
                    use error = new StringWriter()

                    let nothing = {
                        new IDisposable with
                            member _.Dispose() = ()
                    }

                    let terminal = {
                        Out = out
                        Error = error
                        Colour = false
                        Shown = shown
                        Status = StatusLine(error, false)
                        OnInterrupt = fun _ -> nothing
                    }

                    let arguments =
                        [
                            "generate"
                            "--model"
                            folder
                            "--prompt-ids=3"
                            "--ignore-eos"
                            "--max-new-tokens=20"
                        ]
                        @ more

                    Expect.equal (Program.runWith terminal (Array.ofList arguments)) 0 (error.ToString())
                    out.ToString()

                let plain = run id []
                let isControl character = Char.IsControl character && character <> '\n' && character <> '\r'
                Expect.exists plain isControl "escape codes"
                let shown = run Printable.text []
                Expect.isFalse (Seq.exists isControl shown) shown
                Expect.equal shown (Printable.text plain) "token by token as all at once"
                let object = run id [ "--json" ]
                Expect.isFalse (Seq.exists isControl object) "escaped"
                let text = JsonDocument.Parse(object).RootElement.GetProperty("text").GetString()
                Expect.equal (text + Environment.NewLine) plain "and the same text"))

        testCase "what a configuration says is shown, not sent" (fun () ->
            withModel (fun folder ->
                editConfig "\"hidden_act\"" "\"torch_dtype\": \"\\u001b[31m\\u202e\", \"hidden_act\"" folder

                for arguments in [ [ "info"; "--model"; folder ]; [ "info"; "--model"; folder; "--json" ] ] do
                    let outcome = cli arguments
                    let all = outcome.Out + outcome.Error
                    Expect.isFalse (all.Contains '\u001b' || all.Contains '\u202e') all))
    ]

[<Tests>]
let advice =
    testList "command line: advice" [
        testCase
            "no message of the library names an option of the command line, but for the one place that knows both"
            (fun () ->
                let sources = [
                    for project in [ "LayerSkip.Formats"; "LayerSkip"; "LayerSkip.Study" ] do
                        let folder = Path.Combine(Support.root, "src", project)

                        for file in Directory.GetFiles(folder, "*.fs", SearchOption.AllDirectories) do
                            if not (file.Contains "/obj/") then
                                file
                ]

                Expect.isGreaterThan sources.Length 100 "the library, at any depth"

                for file in sources do
                    for line in File.ReadLines file do
                        let line = line.TrimStart()

                        if not (line.StartsWith "//") && line.Contains '"' then
                            let found = Text.RegularExpressions.Regex.Match(line, "--[a-z]{3,}")
                            Expect.isFalse found.Success $"{Path.GetFileName file}: {line}")
    ]
