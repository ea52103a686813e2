namespace LayerSkip

open System.IO
open System.Text.Encodings.Web
open System.Text.Json

/// A byte-level BPE tokenizer as the files that Hugging Face's libraries read.
[<RequireQualifiedAccess>]
module internal TokenizerJsonWriter =
    let json (write: Utf8JsonWriter -> unit) : byte[] =
        use memory = new MemoryStream()
        // No web page: pieces of any script stay readable.
        let options =
            JsonWriterOptions(Indented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping)

        using (new Utf8JsonWriter(memory, options)) (fun json ->
            json.WriteStartObject()
            write json
            json.WriteEndObject())

        memory.WriteByte(byte '\n')
        memory.ToArray()

    let object (json: Utf8JsonWriter) (name: string) (write: unit -> unit) =
        json.WriteStartObject name
        write ()
        json.WriteEndObject()

    let array (json: Utf8JsonWriter) (name: string) (write: unit -> unit) =
        json.WriteStartArray name
        write ()
        json.WriteEndArray()

    let item (json: Utf8JsonWriter) (write: unit -> unit) =
        json.WriteStartObject()
        write ()
        json.WriteEndObject()

    let added (json: Utf8JsonWriter) (tokens: seq<AddedToken>) =
        array json "added_tokens" (fun () ->
            for token in tokens do
                item json (fun () ->
                    json.WriteNumber("id", token.Id)
                    json.WriteString("content", token.Content)
                    json.WriteBoolean("single_word", token.SingleWord)
                    json.WriteBoolean("lstrip", token.TakesLeft)
                    json.WriteBoolean("rstrip", token.TakesRight)
                    json.WriteBoolean("normalized", token.Normalized)
                    json.WriteBoolean("special", token.Special)))

    let byteLevel (json: Utf8JsonWriter) (trimsOffsets: bool) (splitsWords: bool) =
        json.WriteString("type", "ByteLevel")
        json.WriteBoolean("add_prefix_space", false)
        json.WriteBoolean("trim_offsets", trimsOffsets)
        json.WriteBoolean("use_regex", splitsWords)

    /// Some special tokens before a text, and before each of a pair.
    let template (json: Utf8JsonWriter) (prefix: (int * string) list) =
        let part (kind: string) (id: string) (typeId: int) =
            item json (fun () ->
                object json kind (fun () ->
                    json.WriteString("id", id)
                    json.WriteNumber("type_id", typeId)))

        let sequence id typeId =
            for _, token in prefix do
                part "SpecialToken" token typeId

            part "Sequence" id typeId

        json.WriteString("type", "TemplateProcessing")
        array json "single" (fun () -> sequence "A" 0)

        array json "pair" (fun () ->
            sequence "A" 0
            sequence "B" 1)

        object json "special_tokens" (fun () ->
            for id, token in prefix do
                object json token (fun () ->
                    json.WriteString("id", token)
                    array json "ids" (fun () -> json.WriteNumberValue id)
                    array json "tokens" (fun () -> json.WriteStringValue token)))

    let private postProcessor (json: Utf8JsonWriter) (bos: string option) =
        object json "post_processor" (fun () ->
            match bos with
            | None -> byteLevel json true true
            | Some bos ->
                json.WriteString("type", "Sequence")

                array json "processors" (fun () ->
                    item json (fun () -> byteLevel json true true)
                    item json (fun () -> template json [ 0, bos ])))

    let private model (json: Utf8JsonWriter) (pieces: string[]) (merges: struct (int * int)[]) =
        json.WriteString("type", "BPE")

        for name in [ "dropout"; "unk_token"; "continuing_subword_prefix"; "end_of_word_suffix" ] do
            json.WriteNull name

        for name in [ "fuse_unk"; "byte_fallback"; "ignore_merges" ] do
            json.WriteBoolean(name, false)

        object json "vocab" (fun () -> pieces |> Array.iteri (fun id piece -> json.WriteNumber(piece, id)))

        array json "merges" (fun () ->
            for struct (left, right) in merges do
                // No piece has a space: every version reads this form.
                json.WriteStringValue $"{pieces[left]} {pieces[right]}")

    /// tokenizer.json; the special tokens are the first pieces, and `bos` is the first of them where a text begins with it.
    let tokenizer
        (specials: string list)
        (bos: string option)
        (pieces: string[])
        (merges: struct (int * int)[])
        : byte[] =
        json (fun json ->
            json.WriteString("version", "1.0")
            json.WriteNull "truncation"
            json.WriteNull "padding"
            added json (specials |> List.mapi (fun id content -> AddedToken.plain id content true))
            json.WriteNull "normalizer"
            object json "pre_tokenizer" (fun () -> byteLevel json true true)
            postProcessor json bos
            object json "decoder" (fun () -> byteLevel json true true)
            object json "model" (fun () -> model json pieces merges))

    /// tokenizer_config.json.
    let config
        (addsBos: bool)
        (bos: string option)
        (eos: string option)
        (template: string option)
        (modelMaxLength: int option)
        : byte[] =
        json (fun json ->
            let text (name: string) (value: string option) =
                value |> Option.iter (fun value -> json.WriteString(name, value))

            json.WriteBoolean("add_bos_token", addsBos)
            text "bos_token" bos
            text "eos_token" eos
            text "chat_template" template
            json.WriteBoolean("clean_up_tokenization_spaces", false)

            match modelMaxLength with
            | Some length -> json.WriteNumber("model_max_length", length)
            | None -> ()

            json.WriteString("tokenizer_class", "PreTrainedTokenizerFast"))
