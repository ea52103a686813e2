namespace LayerSkip

open System.Text.Encodings.Web
open System.Text.Json

/// A byte-level BPE tokenizer as the files that Hugging Face's libraries read.
[<RequireQualifiedAccess>]
module internal TokenizerJsonWriter =
    // No web page: pieces of any script stay readable.
    let private options =
        JsonSerializerOptions(WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping)

    /// An object with its fields in order.
    let object (fields: (string * obj) list) : obj = dict fields |> box

    /// A stage of a kind.
    let stage (kind: string) (fields: (string * obj) list) : obj = object ([ "type", box kind ] @ fields)

    /// Several stages as one; `name` is "processors", "decoders" and so on.
    let sequence (name: string) (stages: obj list) : obj = stage "Sequence" [ name, stages ]

    /// A whole file: UTF-8, indented, ending with a newline.
    let file (fields: (string * obj) list) : byte[] =
        Array.append (JsonSerializer.SerializeToUtf8Bytes(object fields, options)) "\n"B

    /// "added_tokens": in their order, with all their flags.
    let added (tokens: seq<AddedToken>) : obj =
        box [
            for token in tokens ->
                object [
                    "id", token.Id
                    "content", token.Content
                    "single_word", token.SingleWord
                    "lstrip", token.TakesLeft
                    "rstrip", token.TakesRight
                    "normalized", token.Normalized
                    "special", token.Special
                ]
        ]

    /// The byte-level stage, which serves as pre-tokenizer, post-processor and decoder alike.
    let byteLevel (trimsOffsets: bool) (splitsWords: bool) : obj =
        stage "ByteLevel" [
            "add_prefix_space", false
            "trim_offsets", trimsOffsets
            "use_regex", splitsWords
        ]

    /// Some special tokens before a text, and before each of a pair.
    let template (prefix: (int * string) list) : obj =
        let part (kind: string) (id: string) (typeId: int) =
            object [ kind, object [ "id", id; "type_id", typeId ] ]

        let sequence id typeId = [
            for _, token in prefix do
                part "SpecialToken" token typeId
            part "Sequence" id typeId
        ]

        let special = [
            for id, token in prefix -> token, object [ "id", token; "ids", [ id ]; "tokens", [ token ] ]
        ]

        stage "TemplateProcessing" [
            "single", sequence "A" 0
            "pair", sequence "A" 0 @ sequence "B" 1
            "special_tokens", object special
        ]

    /// tokenizer.json; the special tokens are the first pieces, and `bos` is the first of them where a text begins with it.
    let tokenizer
        (specials: string list)
        (bos: string option)
        (pieces: string[])
        (merges: struct (int * int)[])
        : byte[] =
        let bytes = byteLevel true true

        let model = [
            for name in [ "dropout"; "unk_token"; "continuing_subword_prefix"; "end_of_word_suffix" ] do
                name, null
            for name in [ "fuse_unk"; "byte_fallback"; "ignore_merges" ] do
                name, box false
            "vocab", object [ for id in 0 .. pieces.Length - 1 -> pieces[id], box id ]
            // No piece has a space: every version reads this form.
            "merges", box [ for struct (left, right) in merges -> $"{pieces[left]} {pieces[right]}" ]
        ]

        file [
            "version", "1.0"
            "truncation", null
            "padding", null
            "added_tokens", added (specials |> List.mapi (fun id content -> AddedToken.plain id content true))
            "normalizer", null
            "pre_tokenizer", bytes
            "post_processor",
            (match bos with
             | None -> bytes
             | Some bos -> sequence "processors" [ bytes; template [ 0, bos ] ])
            "decoder", bytes
            "model", stage "BPE" model
        ]

    /// tokenizer_config.json.
    let config
        (addsBos: bool)
        (bos: string option)
        (eos: string option)
        (templates: (string * string) list)
        (modelMaxLength: int option)
        : byte[] =
        let where (name: string) (value: 'T option) = [ for value in Option.toList value -> name, box value ]

        file [
            "add_bos_token", addsBos
            yield! where "bos_token" bos
            yield! where "eos_token" eos
            match templates with
            | [] -> ()
            | [ "default", template ] -> "chat_template", template
            | templates ->
                "chat_template",
                [
                    for name, template in templates -> object [ "name", name; "template", template ]
                ]
            "clean_up_tokenization_spaces", false
            yield! where "model_max_length" modelMaxLength
            "tokenizer_class", "PreTrainedTokenizerFast"
        ]
