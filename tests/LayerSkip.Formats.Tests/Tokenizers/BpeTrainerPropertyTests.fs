module LayerSkip.Tests.BpeTrainerPropertyTests

open System
open System.Collections.Generic
open System.IO
open System.Text.RegularExpressions
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.TokenizerSupport
open LayerSkip.Tests.BpeTrainerTests

/// What training is, in the plainest form: count all pairs anew before each merge. For texts in ASCII.
module private Plain =
    let private words (texts: string list) : string list list = [
        for text in texts do
            for part in text.Split eot do
                for word in Regex.Matches(part, PreTokenizer.gpt2) do
                    [ for c in word.Value -> string ByteAlphabet.characters[int c] ]
    ]

    let rec private merged (left: string, right: string) (word: string list) =
        match word with
        | a :: b :: rest when a = left && b = right -> left + right :: merged (left, right) rest
        | a :: rest -> a :: merged (left, right) rest
        | [] -> []

    /// The merges, and how many symbols the text then is.
    let train (options: BpeOptions) (texts: string list) : (string * string) list * int =
        let rec grow (pieces: string list) (words: string list list) merges =
            let rank = pieces |> List.mapi (fun id piece -> piece, id) |> dict

            let best =
                words
                |> List.collect List.pairwise
                |> List.countBy id
                |> List.filter (fun (_, count) -> count >= options.MinFrequency)
                |> List.sortBy (fun ((left, right), count) -> -count, rank[left], rank[right])
                |> List.tryHead

            match best with
            | Some((left, right), _) when pieces.Length < options.Vocabulary ->
                grow
                    (pieces @ [ left + right ])
                    (List.map (merged (left, right)) words)
                    ((left, right) :: merges)
            | Some _
            | None -> List.rev merges, List.sumBy List.length words

        let bytes = ByteAlphabet.characters |> Array.sort |> Array.map string |> List.ofArray
        grow (options.SpecialTokens @ bytes) (words texts) []

/// Few letters, so that pairs repeat, white space and special tokens between.
let private corpora =
    let part =
        Gen.frequency [
            10, Gen.elements [ "a"; "b"; "c" ]
            4, Gen.elements [ " "; "\n"; "1"; "'s"; eot ]
        ]

    let text = Gen.listOf part |> Gen.map (String.concat "")

    Gen.zip (Gen.nonEmptyListOf text) (Gen.zip (Gen.choose (257, 290)) (Gen.choose (1, 3)))
    |> Gen.map (fun (texts, (size, least)) ->
        "a" :: texts, { BpeOptions.ofVocabulary size with MinFrequency = least })
    |> Arb.fromGen

let private small = lazy (writtenBy (train { BpeOptions.ofVocabulary 300 with MinFrequency = 1 } [ sample ]))

let private properties = [
    testProperty "merges are those of counting all pairs anew each time, and so is the length of the text"
    <| Prop.forAll corpora (fun (texts, options) ->
        let trained = train options texts
        (mergesOf trained, int trained.Tokens) = Plain.train options texts)

    testProperty "any text decodes to itself"
    <| Prop.forAll wellFormed (fun text ->
        let tokenizer = small.Value
        Tokenizer.decode false tokenizer (Tokenizer.encode tokenizer text) = text
        && Tokenizer.decode true tokenizer (Tokenizer.encodeWith false false tokenizer text) = text)

    testProperty "any bytes are tokens, and come back"
    <| fun (bytes: byte[]) ->
        let tokenizer = small.Value
        let ids =
            bytes
            |> Array.map (fun b ->
                1 + Array.IndexOf(Array.sort ByteAlphabet.characters, ByteAlphabet.characters[int b]))
        Array.collect (tokenizer.Bytes true) ids = bytes

    testProperty "the order of the texts does not matter"
    <| Prop.forAll corpora (fun (texts, options) -> train options texts = train options (List.rev texts))

    testProperty "the vocabulary has the size asked for, or a remark says its size"
    <| Prop.forAll corpora (fun (texts, options) ->
        let trained = train options texts
        let size = trained.Pieces.Length
        let distinct = HashSet trained.Pieces

        distinct.Count = size
        && size = 257 + trained.Merges.Length
        && (match trained.Remarks with
            | [] -> size = options.Vocabulary
            | [ remark ] ->
                size < options.Vocabulary && remark.Contains $"{size} tokens, not {options.Vocabulary}"
            | _ -> false))

    testProperty "what is written reads back: the pieces, the merges, and the tokens counted in training"
    <| Prop.forAll corpora (fun (texts, options) ->
        let trained = train options texts
        let tokenizer = writtenBy trained

        let ranked = [
            for entry in
                tokenizer.Parts.Bpe.Merges
                |> Seq.sortBy (fun entry -> let struct (rank, _) = entry.Value in rank) ->
                Pair.halves entry.Key
        ]

        let isText id = not (Tokenizer.isSpecial tokenizer id)
        let ids = texts |> List.map (Tokenizer.encode tokenizer >> Array.filter isText)

        tokenizer.Pieces = trained.Pieces
        && ranked = List.ofArray trained.Merges
        && int64 (List.sumBy Array.length ids) = trained.Tokens)

    testProperty "blocks of any size have the words of the whole text"
    <| Prop.forAll corpora (fun (texts, _) ->
        let text = String.concat "" texts
        let specials = [ eot; "a b"; "\n " ]
        let counts (texts: seq<string>) =
            BpeMerges.count specials texts
            |> Seq.map (fun entry -> entry.Key, entry.Value)
            |> Map.ofSeq

        [ 1; 2; 7; 100 ]
        |> List.forall (fun size ->
            use reader = new StringReader(text)
            let blocks = List.ofSeq (TextBlocks.ofReader size specials reader)
            String.concat "" blocks = text && counts blocks = counts [ text ]))

    testProperty "blocks end soon after their size, where there is white space"
    <| fun (PositiveInt size) ->
        use reader = new StringReader(String.replicate 200 "ab ")
        TextBlocks.ofReader size [] reader
        |> Seq.forall (fun block -> block.Length < 2 * size + 6)
]

[<Tests>]
let tests = testList "tokenizer training: properties" properties
